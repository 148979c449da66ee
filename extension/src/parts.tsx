/** Small parts that the views are made of. */
import * as React from 'react';
import { age, Trans, useEnv, useNow, useSnapshot } from './env';
import { caughtFault, Fault, faultOf } from './faults';
import { ros, shortRos } from './money';
import type { Job, Problem } from './shapes';
import { faultHeading, faultText } from './words';

/** An amount: short to read, exact in its title, and a button where something is behind it. */
export function Amount(props: { wei: string; exact?: boolean; onOpen?: () => void; label?: string }): React.ReactElement {
  const exact = ros(props.wei);
  const text = `${props.exact ? exact : shortRos(props.wei)} ROS`;
  const shown = { className: 'rios-amount', title: `${exact} ROS`, 'data-wei': props.wei };
  return props.onOpen ? (
    <button {...shown} className="rios-amount rios-link" onClick={props.onOpen} aria-label={`${props.label ?? ''} ${text}`}>
      {text}
    </button>
  ) : (
    <span {...shown}>{text}</span>
  );
}

/** Whose a job is: the login that people know, and the id that everything else goes by in its title. */
export function Owner(props: { job: Job }): React.ReactElement {
  const { owner, owner_login } = props.job;
  return (
    <span className="rios-owner" title={owner}>
      {owner_login}
    </span>
  );
}

/** A labelled line. */
export function Line(props: { label: string; children: React.ReactNode }): React.ReactElement {
  return (
    <div className="rios-line">
      <dt>{props.label}</dt>
      <dd>{props.children}</dd>
    </div>
  );
}

/** A bar of how much of a whole is used, from 0 to 1. */
export function Bar(props: { share: number; label: string; level?: 'ok' | 'warn' | 'bad' }): React.ReactElement {
  const percent = Math.round(props.share * 100);
  return (
    <div
      className={`rios-bar rios-${props.level ?? 'ok'}`}
      role="meter"
      aria-label={props.label}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={percent}
    >
      <div style={{ width: `${percent}%` }} />
    </div>
  );
}

/** What to do about the state of the whole panel; nothing while it is current. */
export function Notice(): React.ReactElement | null {
  const { model, trans, signIn } = useEnv();
  const { status, heardAt, problem } = useSnapshot();
  const now = useNow(1000, status === 'stale');
  if (status === 'live' || status === 'none') {
    return null;
  }
  if (status === 'loading') {
    return (
      <p className="rios-notice" role="status">
        {trans.__('Looking …')}
      </p>
    );
  }
  const retry = (
    <button className="rios-button" onClick={() => model.refresh()}>
      {trans.__('Try now')}
    </button>
  );
  if (status === 'stale') {
    return (
      <div className="rios-notice rios-stale" role="alert">
        <b>{trans.__('Stale')}</b> {trans.__('These figures are %1 old: nobody answers.', age(now - (heardAt ?? now), trans))}{' '}
        {problem ? <Said fault={problem} trans={trans} /> : null} {retry}
      </div>
    );
  }
  if (status === 'forbidden') {
    return (
      <div className="rios-notice rios-forbidden" role="alert">
        <b>{trans.__('Not allowed')}</b> {problem ? <Said fault={problem} trans={trans} /> : null}
      </div>
    );
  }
  if (status === 'out') {
    return (
      <div className="rios-notice rios-forbidden" role="alert">
        <b>{trans.__('Signed out')}</b> {signIn}
      </div>
    );
  }
  return (
    <div className="rios-notice rios-outage" role="alert">
      <b>{trans.__('No answer')}</b>{' '}
      {problem ? <Said fault={problem} trans={trans} /> : trans.__('The server does not answer. Is it running?')} {retry}
    </div>
  );
}

/** What a fault says: words of ours in the reader's language, those of a server as they come, which is in English. */
function Said(props: { fault: Fault; trans: Trans }): React.ReactElement {
  const own = faultText(props.fault, props.trans);
  return own === null ? <span lang="en">{props.fault.detail}</span> : <>{own}</>;
}

/** What went wrong, under a heading that says of which kind it is; nothing where nothing did. */
export function Trouble(props: { fault: Fault | null; trans: Trans; children?: React.ReactNode }): React.ReactElement | null {
  const { fault, trans } = props;
  if (fault === null) {
    return null;
  }
  return (
    <p className="rios-notice rios-outage" role="alert">
      <b>{faultHeading(fault, trans)}</b> <Said fault={fault} trans={trans} /> {props.children}
    </p>
  );
}

/** Why a job is not what was asked for. */
export function Failure(props: { job: Job; trans: Trans }): React.ReactElement | null {
  const { job, trans } = props;
  return job.error ? (
    <p className="rios-notice rios-outage" role="status">
      <b>{trans.__('What went wrong')}</b> <span lang="en">{job.error}</span>
    </p>
  ) : null;
}

/** Why a section has no data, or old ones. */
export function SectionProblem(props: { problem: Problem | null; at?: number | null }): React.ReactElement | null {
  const { trans } = useEnv();
  const now = useNow(5000, props.problem !== null);
  if (props.problem === null) {
    return null;
  }
  const fault = faultOf(props.problem);
  return (
    <p className={`rios-notice ${fault.kind === 'forbidden' ? 'rios-forbidden' : 'rios-outage'}`} role="status">
      <b>{props.at ? trans.__('Stale since %1.', age(now - props.at * 1000, trans)) : faultHeading(fault, trans)}</b>{' '}
      <Said fault={fault} trans={trans} />
    </p>
  );
}

/** What is being asked for, once: loading, failed with its reason, or there. */
export function Asked<T>(props: {
  ask: () => Promise<T>;
  again: unknown;
  children: (found: T) => React.ReactNode;
}): React.ReactElement {
  const { trans } = useEnv();
  const [state, setState] = React.useState<{ found?: T; fault?: Fault }>({});
  const [tries, setTries] = React.useState(0);
  React.useEffect(() => {
    let current = true;
    props.ask().then(
      found => current && setState({ found }),
      (error: unknown) => current && setState(before => ({ ...before, fault: caughtFault(error) }))
    );
    return () => {
      current = false;
    };
  }, [props.again, tries]);
  return (
    <>
      <Trouble fault={state.fault ?? null} trans={trans}>
        <button className="rios-button" onClick={() => setTries(tries + 1)}>
          {trans.__('Try again')}
        </button>
      </Trouble>
      {state.found === undefined ? state.fault ? null : <p role="status">{trans.__('Looking …')}</p> : props.children(state.found)}
    </>
  );
}

/** A dialog that keeps the keyboard inside, and gives the focus back. */
export function Modal(props: { title: string; onClose: () => void; children: React.ReactNode }): React.ReactElement {
  const { trans } = useEnv();
  const box = React.useRef<HTMLDialogElement>(null);
  const id = React.useId();
  React.useEffect(() => {
    const dialog = box.current;
    const before = document.activeElement;
    dialog?.showModal();
    dialog?.querySelector<HTMLElement>('input')?.focus(); // a browser chooses the first button, which closes it
    return () => {
      dialog?.close();
      if (before instanceof HTMLElement) {
        before.focus();
      }
    };
  }, []);
  return (
    <dialog
      ref={box}
      className="rios-dialog"
      aria-labelledby={id}
      onCancel={event => {
        event.preventDefault();
        props.onClose();
      }}
      onKeyDown={event => event.stopPropagation()}
    >
      <header>
        <h2 id={id}>{props.title}</h2>
        <button className="rios-button rios-icon" aria-label={trans.__('Close')} onClick={props.onClose}>
          ×
        </button>
      </header>
      {props.children}
    </dialog>
  );
}
