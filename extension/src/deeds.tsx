/** Deeds with money: what will happen, asked once, then done once. */
import * as React from 'react';
import { useEnv, Trans } from './env';
import { caughtFault, Fault } from './faults';
import { ros } from './money';
import { Modal, Trouble } from './parts';
import type { Done, Plan } from './shapes';

export type Action = 'deposit' | 'withdraw' | 'finish_withdrawal' | 'settle' | 'claim' | 'budget';
const WITH_AMOUNT: Action[] = ['deposit', 'withdraw', 'budget'];

export function titleOf(action: Action, trans: Trans): string {
  const titles: Record<Action, string> = {
    deposit: trans.__('Deposit'),
    withdraw: trans.__('Withdraw'),
    finish_withdrawal: trans.__('Finish the withdrawal'),
    settle: trans.__('Settle'),
    claim: trans.__('Claim earnings'),
    budget: trans.__('Set a budget')
  };
  return titles[action];
}

function whatOf(what: string, trans: Trans): string {
  const names: Record<string, string> = {
    on_chain: trans.__('On chain'),
    deposited: trans.__('Deposited'),
    withdrawing: trans.__('Being withdrawn'),
    claimable: trans.__('Claimable'),
    claimed: trans.__('Claimed'),
    budget_day: trans.__('Budget a day'),
    budget_week: trans.__('Budget a week'),
    budget_month: trans.__('Budget a month'),
    budget_total: trans.__('Budget in total')
  };
  return names[what] ?? what;
}

function noteOf(note: string, trans: Trans): string {
  const notes: Record<string, string> = {
    transaction: trans.__('A transaction is sent to the chain. It cannot be taken back.'),
    delay: trans.__('The escrow may hold the amount back for its delay; then finish the withdrawal.'),
    settles_first: trans.__('What was used is settled first, so less may be left than is shown.'),
    epoch: trans.__('An epoch is closed over all that was used, and its root is posted.'),
    budget_hard: trans.__('Requests that do not fit are refused before they start.'),
    budget_soft: trans.__('Nothing is refused; alerts are sent.'),
    budget_below_spent: trans.__('More than this is spent or held already: new requests will be refused.')
  };
  return notes[note] ?? note;
}

function doneOf(done: Done, trans: Trans): string {
  const texts: Record<string, string> = {
    moved: trans.__('Done: the amount has moved.'),
    settled: trans.__('Done: the epoch is closed and its root is posted.'),
    nothing_used: trans.__('Nothing was used since the last epoch, so there was nothing to settle.'),
    claimed: trans.__('Done: %1 ROS were paid.', ros(done.wei ?? '0')),
    budget_set: trans.__('Done: the budget is set.')
  };
  return texts[done.said] ?? done.said;
}

/** Asks for what is missing, shows the plan, and does it after one yes. */
export function DeedDialog(props: { action: Action; onClose: () => void }): React.ReactElement {
  const { model, trans } = useEnv();
  const { action } = props;
  const asks = WITH_AMOUNT.includes(action);
  const [amount, setAmount] = React.useState('');
  const [period, setPeriod] = React.useState('month');
  const [hard, setHard] = React.useState(true);
  const [plan, setPlan] = React.useState<Plan | null>(null);
  const [done, setDone] = React.useState<Done | null>(null);
  const [busy, setBusy] = React.useState(false);
  const [fault, setFault] = React.useState<Fault | null>(null);
  const id = React.useId();

  const run = async (work: () => Promise<void>) => {
    setBusy(true);
    setFault(null);
    try {
      await work();
    } catch (caught) {
      setFault(caughtFault(caught));
    } finally {
      setBusy(false);
    }
  };
  const look = () =>
    run(async () => {
      const given =
        action === 'budget' ? { amount: amount.trim() || null, period, hard } : asks ? { amount: amount.trim() } : {};
      setPlan(await model.api.plan(action, given));
    });
  const act = () =>
    run(async () => {
      if (plan !== null) {
        setDone(await model.api.act(plan.plan));
        model.refresh();
        if (action !== 'budget') {
          await model.lookAtChain();
        }
      }
    });
  React.useEffect(() => {
    if (!asks) {
      void look();
    }
  }, []);

  const form = (
    <form
      onSubmit={event => {
        event.preventDefault();
        void look();
      }}
    >
      <label htmlFor={id}>{action === 'budget' ? trans.__('Limit in ROS; empty takes it away') : trans.__('Amount in ROS')}</label>
      <input
        id={id}
        autoFocus
        inputMode="decimal"
        autoComplete="off"
        spellCheck={false}
        placeholder="25"
        value={amount}
        onChange={event => setAmount(event.target.value)}
      />
      {action === 'budget' ? (
        <>
          <label>
            {trans.__('In each')}{' '}
            <select value={period} onChange={event => setPeriod(event.target.value)}>
              <option value="day">{trans.__('day')}</option>
              <option value="week">{trans.__('week')}</option>
              <option value="month">{trans.__('month')}</option>
              <option value="total">{trans.__('in total')}</option>
            </select>
          </label>
          <label>
            <input type="checkbox" checked={hard} onChange={event => setHard(event.target.checked)} />{' '}
            {trans.__('refuse what does not fit')}
          </label>
        </>
      ) : null}
      <footer>
        <button type="button" className="rios-button" onClick={props.onClose}>
          {trans.__('Cancel')}
        </button>
        <button type="submit" className="rios-button rios-primary" disabled={busy || (action !== 'budget' && !amount.trim())}>
          {busy ? trans.__('Looking …') : trans.__('What will happen')}
        </button>
      </footer>
    </form>
  );
  return (
    <Modal title={titleOf(action, trans)} onClose={props.onClose}>
      <Trouble fault={fault} trans={trans} />
      {done !== null ? (
        // A key of its own: buttons of the plan that were taken over would not get the focus.
        <React.Fragment key="done">
          <p role="status">{doneOf(done, trans)}</p>
          <footer>
            <button className="rios-button rios-primary" autoFocus onClick={props.onClose}>
              {trans.__('Close')}
            </button>
          </footer>
        </React.Fragment>
      ) : plan !== null ? (
        <>
          <PlanTable plan={plan} />
          <footer>
            <button className="rios-button" onClick={props.onClose} disabled={busy}>
              {trans.__('Cancel')}
            </button>
            <button className="rios-button rios-primary" autoFocus onClick={() => void act()} disabled={busy}>
              {busy ? trans.__('Under way …') : titleOf(action, trans)}
            </button>
          </footer>
        </>
      ) : asks ? (
        form
      ) : (
        <footer>
          {busy ? <span role="status">{trans.__('Looking …')}</span> : null}
          <button className="rios-button" onClick={props.onClose}>
            {trans.__('Close')}
          </button>
        </footer>
      )}
    </Modal>
  );
}

function PlanTable(props: { plan: Plan }): React.ReactElement {
  const { trans } = useEnv();
  const shown = (wei: string | null) => (wei === null ? trans.__('none') : `${ros(wei)} ROS`);
  return (
    <>
      <table className="rios-plan">
        <thead>
          <tr>
            <th scope="col">{trans.__('What')}</th>
            <th scope="col" className="rios-number">{trans.__('now')}</th>
            <th scope="col" className="rios-number">{trans.__('then')}</th>
          </tr>
        </thead>
        <tbody>
          {props.plan.changes.map(change => (
            <tr key={change.what}>
              <th scope="row">{whatOf(change.what, trans)}</th>
              <td className="rios-number">{shown(change.before_wei)}</td>
              <td className="rios-number">{shown(change.after_wei)}</td>
            </tr>
          ))}
        </tbody>
      </table>
      {props.plan.notes.map(note => (
        <p key={note}>{noteOf(note, trans)}</p>
      ))}
    </>
  );
}
