/** The wallet: what there is, what is spent, what own workers earn. */
import * as React from 'react';
import { Action, DeedDialog, titleOf } from './deeds';
import { shortDay, useEnv, useSnapshot } from './env';
import { caughtFault, Fault } from './faults';
import { ros, share, shortRos } from './money';
import { Amount, Bar, Line, SectionProblem, Trouble } from './parts';
import type { Budget, Day } from './shapes';
import { EarnedDialog, HeldDialog, UsageDialog } from './usage';

type Open = { deed: Action } | { usage: Record<string, string>; title: string } | 'earned' | 'held' | null;
type OnUsage = (title: string, filters: Record<string, string>) => void;

/** Which dialog the wallet should open, from a command. */
export const walletRequests = new EventTarget();

export function WalletView(): React.ReactElement {
  const { trans } = useEnv();
  const [open, setOpen] = React.useState<Open>(null);
  React.useEffect(() => {
    const opened = (event: Event) => setOpen({ deed: (event as CustomEvent<Action>).detail });
    walletRequests.addEventListener('deed', opened);
    return () => walletRequests.removeEventListener('deed', opened);
  }, []);
  const { status } = useSnapshot();
  const can = status === 'live';
  const deed = (action: Action) => (
    <button key={action} className="rios-button" disabled={!can} onClick={() => setOpen({ deed: action })}>
      {titleOf(action, trans)}
    </button>
  );
  return (
    <section className="rios-wallet" aria-label={trans.__('Wallet')}>
      <Figures deed={deed} onUsage={(title, usage) => setOpen({ title, usage })} onHeld={() => setOpen('held')} />
      <Spend
        onUsage={(title, usage) => setOpen({ title, usage })}
        onBudget={() => setOpen({ deed: 'budget' })}
        disabled={!can}
      />
      <Earned deed={deed} onOpen={() => setOpen('earned')} />
      {open === 'earned' ? <EarnedDialog onClose={() => setOpen(null)} /> : null}
      {open === 'held' ? <HeldDialog onClose={() => setOpen(null)} /> : null}
      {open !== null && typeof open === 'object' && 'deed' in open ? <DeedDialog key={open.deed} action={open.deed} onClose={() => setOpen(null)} /> : null}
      {open !== null && typeof open === 'object' && 'usage' in open ? (
        <UsageDialog title={open.title} filters={open.usage} onClose={() => setOpen(null)} />
      ) : null}
    </section>
  );
}

function Figures(props: {
  deed: (action: Action) => React.ReactElement;
  onUsage: OnUsage;
  onHeld: () => void;
}): React.ReactElement | null {
  const { trans } = useEnv();
  const { sections } = useSnapshot();
  const wallet = sections.wallet;
  const since = sections.spend?.data?.days[0]?.day;
  if (!wallet) {
    return null;
  }
  const data = wallet.data;
  return (
    <>
      <SectionProblem problem={wallet.error} at={data ? wallet.at : null} />
      {data ? (
        <>
          <dl>
            <Line label={trans.__('Address')}>{data.address ? <Address address={data.address} /> : trans.__('none')}</Line>
            <Line label={trans.__('On chain')}>
              <OnChain />
            </Line>
            <Line label={trans.__('Deposited')}>
              <Amount wei={data.deposited_wei} />
            </Line>
            {data.trial_wei !== '0' ? (
              <Line label={trans.__('Trial credit')}>
                <Amount wei={data.trial_wei} />
              </Line>
            ) : null}
            <Line label={trans.__('Available')}>
              <Amount
                wei={data.available_wei}
                label={trans.__('Usage of the last 30 days:')}
                {...(since ? { onOpen: () => props.onUsage(trans.__('Used in the last 30 days'), { since }) } : {})}
              />
            </Line>
            <Line label={trans.__('Held')}>
              <Amount wei={data.held_wei} label={trans.__('What it is held for:')} onOpen={props.onHeld} />
            </Line>
            {data.withdrawing_wei !== '0' ? (
              <Line label={trans.__('Being withdrawn')}>
                <Amount wei={data.withdrawing_wei} />
              </Line>
            ) : null}
            {data.overdrawn_wei !== '0' ? (
              <Line label={trans.__('Overdrawn')}>
                <Amount wei={data.overdrawn_wei} />
              </Line>
            ) : null}
          </dl>
          <div className="rios-buttons">
            {props.deed('deposit')}
            {props.deed('withdraw')}
            {data.withdrawing_wei !== '0' ? props.deed('finish_withdrawal') : null}
            {props.deed('settle')}
          </div>
        </>
      ) : null}
    </>
  );
}

function Address(props: { address: string }): React.ReactElement {
  const { trans } = useEnv();
  const [copied, setCopied] = React.useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(props.address);
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  };
  return (
    <>
      <span className="rios-mono" title={props.address}>
        {props.address.slice(0, 6)}…{props.address.slice(-4)}
      </span>{' '}
      <button className="rios-button" onClick={() => void copy()} aria-label={trans.__('Copy the address %1', props.address)}>
        {copied ? trans.__('copied') : trans.__('copy')}
      </button>
    </>
  );
}

/** What lies outside the escrow. Asked for when somebody looks, since that may start a chain. */
function OnChain(): React.ReactElement {
  const { model, trans } = useEnv();
  const { onChainWei, status } = useSnapshot();
  const [busy, setBusy] = React.useState(false);
  const [fault, setFault] = React.useState<Fault | null>(null);
  const look = async () => {
    setBusy(true);
    setFault(null);
    try {
      await model.lookAtChain();
    } catch (caught) {
      setFault(caughtFault(caught));
    } finally {
      setBusy(false);
    }
  };
  if (onChainWei !== null) {
    return <Amount wei={onChainWei} />;
  }
  return (
    <>
      <Trouble fault={fault} trans={trans} />
      <button className="rios-button" disabled={busy || status !== 'live'} onClick={() => void look()}>
        {busy ? trans.__('looking …') : trans.__('look')}
      </button>
    </>
  );
}

function Spend(props: {
  onUsage: OnUsage;
  onBudget: () => void;
  disabled: boolean;
}): React.ReactElement | null {
  const { trans } = useEnv();
  const spend = useSnapshot().sections.spend;
  if (!spend) {
    return null;
  }
  const data = spend.data;
  const today = data?.days.at(-1)?.day ?? '';
  const month = data?.budgets.find(one => one.period === 'month');
  return (
    <>
      <h3>{trans.__('Spent')}</h3>
      <SectionProblem problem={spend.error} at={data ? spend.at : null} />
      {data ? (
        <>
          <dl>
            <Line label={trans.__('Today')}>
              <Amount
                wei={data.today_wei}
                label={trans.__('Usage of today:')}
                onOpen={() => props.onUsage(trans.__('Used today'), { since: today })}
              />
            </Line>
            <Line label={trans.__('This month')}>
              <Amount
                wei={data.month_wei}
                label={trans.__('Usage of this month:')}
                onOpen={() => props.onUsage(trans.__('Used this month'), { since: `${today.slice(0, 8)}01` })}
              />
            </Line>
            {data.budgets.map(budget => (
              <BudgetLine key={budget.period} budget={budget} onUsage={props.onUsage} />
            ))}
          </dl>
          <Chart days={data.days} onDay={day => props.onUsage(day, { since: day, until: after(day) })} />
          <div className="rios-buttons">
            <button className="rios-button" disabled={props.disabled} onClick={props.onBudget}>
              {month ? trans.__('Change the budget') : trans.__('Set a budget')}
            </button>
          </div>
        </>
      ) : null}
    </>
  );
}

function BudgetLine(props: { budget: Budget; onUsage: OnUsage }): React.ReactElement {
  const { trans } = useEnv();
  const { budget } = props;
  const used = (BigInt(budget.spent_wei) + BigInt(budget.held_wei)).toString();
  const part = share(used, budget.limit_wei);
  const names = { day: trans.__('Budget a day'), week: trans.__('Budget a week'), month: trans.__('Budget a month'), total: trans.__('Budget in total') };
  const text = trans.__('%1 of %2 ROS', shortRos(used), shortRos(budget.limit_wei));
  return (
    <Line label={names[budget.period]}>
      <button
        className="rios-amount rios-link"
        title={`${ros(used)} / ${ros(budget.limit_wei)} ROS`}
        onClick={() => props.onUsage(names[budget.period], budget.since ? { since: budget.since } : {})}
      >
        {text}
      </button>
      <Bar share={part} label={`${names[budget.period]}: ${text}`} level={part >= 0.9 ? 'bad' : part >= 0.75 ? 'warn' : 'ok'} />
    </Line>
  );
}

/** The last 30 days. One stop for the keyboard; arrows go from day to day. */
function Chart(props: { days: Day[]; onDay: (day: string) => void }): React.ReactElement {
  const { trans } = useEnv();
  const { days } = props;
  const [at, setAt] = React.useState(days.length - 1);
  const bars = React.useRef<Array<HTMLButtonElement | null>>([]);
  const most = days.reduce((max, one) => (BigInt(one.wei) > BigInt(max) ? one.wei : max), '0');
  const go = (event: React.KeyboardEvent) => {
    const step = event.key === 'ArrowLeft' ? -1 : event.key === 'ArrowRight' ? 1 : 0;
    const next = Math.min(days.length - 1, Math.max(0, at + step));
    if (step !== 0) {
      event.preventDefault();
      setAt(next);
      bars.current[next]?.focus();
    }
  };
  const [first, last] = [days[0]?.day, days.at(-1)?.day];
  if (most === '0' || first === undefined || last === undefined) {
    return <p>{trans.__('Nothing was spent in the last 30 days.')}</p>;
  }
  return (
    <>
      <div className="rios-chart" role="group" aria-label={trans.__('Spent on each of the last 30 days')} onKeyDown={go}>
        {days.map((one, place) => (
          <button
            key={one.day}
            ref={bar => {
              bars.current[place] = bar;
            }}
            tabIndex={place === at ? 0 : -1}
            onFocus={() => setAt(place)}
            onClick={() => props.onDay(one.day)}
            title={`${one.day}: ${ros(one.wei)} ROS`}
            aria-label={`${one.day}: ${shortRos(one.wei)} ROS`}
          >
            <span style={{ height: `${one.wei === '0' ? 0 : Math.max(4, share(one.wei, most) * 100)}%` }} />
          </button>
        ))}
      </div>
      <div className="rios-chart-foot" aria-hidden="true">
        <span>{shortDay(first)}</span>
        <span>{trans.__('at most %1 ROS', shortRos(most))}</span>
        <span>{shortDay(last)}</span>
      </div>
    </>
  );
}

function Earned(props: {
  deed: (action: Action) => React.ReactElement;
  onOpen: () => void;
}): React.ReactElement | null {
  const { trans } = useEnv();
  const { earnings, wallet } = useSnapshot().sections;
  if (!earnings) {
    return null;
  }
  const data = earnings.data;
  if (earnings.error?.type === 'NotFound' && wallet?.data?.address === null) {
    return (
      <>
        <h3>{trans.__('Earned by own workers')}</h3>
        <p>{trans.__('Nothing: a worker earns for an address on the chain, and there is none here.')}</p>
      </>
    );
  }
  return (
    <>
      <h3>{trans.__('Earned by own workers')}</h3>
      <SectionProblem problem={earnings.error} at={data ? earnings.at : null} />
      {data ? (
        <>
          <dl>
            <Line label={trans.__('In all')}>
              <Amount wei={data.earned_wei} label={trans.__('What it was earned for:')} onOpen={props.onOpen} />
            </Line>
            <Line label={trans.__('Claimable')}>
              <Amount wei={data.claimable_wei} />
            </Line>
            <Line label={trans.__('Not yet')}>
              <Amount wei={data.pending_wei} />
            </Line>
            <Line label={trans.__('Claimed')}>
              <Amount wei={data.claimed_wei} />
            </Line>
          </dl>
          <div className="rios-buttons">{props.deed('claim')}</div>
        </>
      ) : null}
    </>
  );
}

/** The day after a day such as "2026-11-28". */
function after(day: string): string {
  return new Date(Date.parse(`${day}T00:00:00Z`) + 86_400_000).toISOString().slice(0, 10);
}
