/** Small parts that the views are made of. */
import * as React from 'react';
import { PanelError } from './api';
import { age, useEnv, useNow, useSnapshot } from './env';
import { ros, shortRos } from './money';
import type { Problem } from './shapes';

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
        {problem} {retry}
      </div>
    );
  }
  if (status === 'forbidden') {
    return (
      <div className="rios-notice rios-forbidden" role="alert">
        <b>{trans.__('Not allowed')}</b> {problem || signIn}
      </div>
    );
  }
  return (
    <div className="rios-notice rios-outage" role="alert">
      <b>{trans.__('No answer')}</b> {problem || trans.__('The server does not answer. Is it running?')} {retry}
    </div>
  );
}

/** Why a section has no data, or old ones. */
export function SectionProblem(props: { problem: Problem | null; at?: number | null }): React.ReactElement | null {
  const { trans } = useEnv();
  const now = useNow(5000, props.problem !== null);
  if (props.problem === null) {
    return null;
  }
  const forbidden = props.problem.type === 'NotAllowed' || props.problem.type === 'NotSignedIn';
  return (
    <p className={`rios-notice ${forbidden ? 'rios-forbidden' : 'rios-outage'}`} role="status">
      {props.at ? <b>{trans.__('Stale since %1.', age(now - props.at * 1000, trans))} </b> : null}
      {props.problem.detail}
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
  const [state, setState] = React.useState<{ found?: T; error?: string }>({});
  const [tries, setTries] = React.useState(0);
  React.useEffect(() => {
    let current = true;
    props.ask().then(
      found => current && setState({ found }),
      (error: unknown) => current && setState(before => ({ ...before, error: said(error) }))
    );
    return () => {
      current = false;
    };
  }, [props.again, tries]);
  return (
    <>
      {state.error ? (
        <p className="rios-notice rios-outage" role="alert">
          {state.error}{' '}
          <button className="rios-button" onClick={() => setTries(tries + 1)}>
            {trans.__('Try again')}
          </button>
        </p>
      ) : null}
      {state.found === undefined ? state.error ? null : <p role="status">{trans.__('Looking …')}</p> : props.children(state.found)}
    </>
  );
}

/** An error in words. */
export function said(error: unknown): string {
  return error instanceof PanelError || error instanceof Error ? error.message : String(error);
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
