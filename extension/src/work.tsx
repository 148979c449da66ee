/** Deployments and reports: their figures, their lines and what can be done about them; in the panel and in widgets. */
import * as React from 'react';
import { age, dateTime, timeOfDay, Trans } from './env';
import { Amount, Bar, Line, Owner } from './parts';
import type { Job, LogLine } from './shapes';
import { phaseName } from './words';

export type Deed = 'scale' | 'pause' | 'resume' | 'retry' | 'duplicate' | 'cancel';
const KNOWN: Deed[] = ['scale', 'pause', 'resume', 'retry', 'duplicate', 'cancel'];

/** How far it has come, in two words: a row is 250 px wide. */
export function progress(job: Job, trans: Trans): string {
  return job.kind === 'deployment' ? trans.__('%1/%2 ready', job.parts, job.parts_max) : phaseName(job.phase, trans);
}

/** The figures of a deployment or a report. */
export function Facts(props: { job: Job; trans: Trans; onUsage?: () => void }): React.ReactElement {
  const { job, trans } = props;
  const seconds = (job.ended_at ?? Date.now() / 1000) - job.started_at;
  const deployment = job.kind === 'deployment';
  return (
    <dl>
      <Line label={trans.__('State')}>{phaseName(job.phase, trans)}</Line>
      {deployment ? (
        <>
          <Line label={trans.__('Replicas')}>
            {trans.__('%1 of %2 replicas ready', job.parts, job.parts_max)}
            <Bar share={job.parts_max ? Math.min(1, job.parts / job.parts_max) : 0} label={trans.__('Replicas')} />
          </Line>
          <Line label={trans.__('Requests')}>{job.requests}</Line>
        </>
      ) : null}
      <Line label={trans.__('Cost')}>
        <Amount wei={job.cost_wei} exact label={trans.__('Usage of this job:')} {...(props.onUsage ? { onOpen: props.onUsage } : {})} />
      </Line>
      <Line label={trans.__('Owner')}>
        <Owner job={job} />
      </Line>
      <Line label={trans.__('Hosts')}>{job.hosts.join(', ') || '–'}</Line>
      <Line label={trans.__('Started')}>{dateTime(job.started_at)}</Line>
      <Line label={job.ended_at === null ? trans.__('Since') : trans.__('Took')}>{age(seconds * 1000, trans)}</Line>
    </dl>
  );
}

/** Buttons for what makes sense now; taking a deployment down is asked once more. */
export function Deeds(props: {
  job: Job;
  trans: Trans;
  disabled: boolean;
  onDeed: (deed: Deed, replicas?: number) => void;
}): React.ReactElement {
  const { job, trans, disabled, onDeed } = props;
  const [replicas, setReplicas] = React.useState(job.parts_max);
  const [sure, setSure] = React.useState(false);
  React.useEffect(() => setReplicas(job.parts_max), [job.parts_max]);
  const labels: Record<Deed, string> = {
    scale: trans.__('Scale'),
    pause: trans.__('Pause'),
    resume: trans.__('Resume'),
    retry: job.kind === 'report' ? trans.__('Make it again') : trans.__('Restart'),
    duplicate: trans.__('Duplicate'),
    cancel: trans.__('Stop')
  };
  const press = (deed: Deed) => {
    if (deed === 'cancel' && !sure) {
      setSure(true);
      return;
    }
    setSure(false);
    onDeed(deed, deed === 'scale' ? replicas : undefined);
  };
  return (
    <div className="rios-buttons">
      {KNOWN.filter(deed => job.deeds.includes(deed)).map(deed => (
        <React.Fragment key={deed}>
          {deed === 'scale' ? (
            <input
              type="number"
              className="rios-replicas"
              aria-label={trans.__('Replicas wanted')}
              min={0}
              max={1000}
              value={replicas}
              disabled={disabled}
              onChange={event => setReplicas(Math.max(0, Math.floor(Number(event.target.value))))}
            />
          ) : null}
          <button className="rios-button" disabled={disabled || (deed === 'scale' && replicas === job.parts_max)} onClick={() => press(deed)}>
            {deed === 'cancel' && sure ? trans.__('Stop it and delete what it has: press again') : labels[deed]}
          </button>
        </React.Fragment>
      ))}
    </div>
  );
}

/** Lines of a log, the last in sight unless somebody reads further up. */
export function Lines(props: { lines: readonly LogLine[]; trans: Trans }): React.ReactElement {
  const { lines, trans } = props;
  const box = React.useRef<HTMLDivElement>(null);
  const below = React.useRef(true);
  React.useLayoutEffect(() => {
    if (box.current !== null && below.current) {
      box.current.scrollTop = box.current.scrollHeight;
    }
  }, [lines]);
  return (
    <div
      ref={box}
      className="rios-log"
      role="log"
      tabIndex={0}
      aria-label={trans.__('Log')}
      onScroll={event => {
        const { scrollTop, scrollHeight, clientHeight } = event.currentTarget;
        below.current = scrollHeight - scrollTop - clientHeight < 24;
      }}
    >
      {lines.length === 0 ? <i>{trans.__('Nothing was written yet.')}</i> : null}
      {lines.map((line, place) => (
        <div key={`${line.at} ${place}`}>
          <span className="rios-prompt">
            {timeOfDay(line.at)} {line.who}
          </span>{' '}
          {line.text}
        </div>
      ))}
    </div>
  );
}
