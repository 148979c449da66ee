/** One deployment or report in the panel: figures, buttons, and its log as it is written. */
import * as React from 'react';
import { useEnv, useSnapshot } from './env';
import { isLive } from './model';
import { said } from './parts';
import type { Job, LogLine } from './shapes';
import { Deed, Deeds, Facts, kindName, Lines } from './work';

const LOOK_MS = 1000;
const KEPT = 1000;

export function WorkDetail(props: { job: Job; onBack: () => void }): React.ReactElement {
  const { model, trans } = useEnv();
  const { status } = useSnapshot();
  const { job } = props;
  const [error, setError] = React.useState('');
  const [busy, setBusy] = React.useState(false);
  const back = React.useRef<HTMLButtonElement>(null);
  React.useEffect(() => back.current?.focus(), []);
  const lines = useLog(job, setError);
  const act = async (deed: Deed, replicas?: number) => {
    setBusy(true);
    setError('');
    try {
      await model.api.deed(deed, job.id, replicas);
    } catch (caught) {
      setError(said(caught));
    } finally {
      setBusy(false);
    }
  };
  return (
    <section className="rios-detail" aria-label={trans.__('%1 %2', kindName(job.kind, trans), job.name)}>
      <button ref={back} className="rios-button" onClick={props.onBack}>
        ← {trans.__('All jobs')}
      </button>
      <h3>{job.name}</h3>
      {error ? (
        <p className="rios-notice rios-outage" role="alert">
          {error}
        </p>
      ) : null}
      {job.error ? (
        <p className="rios-notice rios-outage" role="status">
          {job.error}
        </p>
      ) : null}
      <Facts job={job} trans={trans} />
      <Deeds job={job} trans={trans} disabled={busy || status !== 'live'} onDeed={(deed, replicas) => void act(deed, replicas)} />
      <Lines lines={lines} trans={trans} />
    </section>
  );
}

/** What it has written, asked for again each second while it goes on, and once more after its end. */
function useLog(job: Job, failed: (error: string) => void): readonly LogLine[] {
  const { model } = useEnv();
  const { status } = useSnapshot();
  const [lines, setLines] = React.useState<readonly LogLine[]>([]);
  const since = React.useRef(0);
  const going = isLive(job);
  React.useEffect(() => {
    since.current = 0;
    setLines([]);
  }, [job.id]);
  React.useEffect(() => {
    let current = true;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const look = async () => {
      try {
        const found = await model.api.log(job.id, since.current);
        if (!current) {
          return;
        }
        since.current = found.next;
        if (found.lines.length > 0) {
          setLines(before => [...before, ...found.lines].slice(-KEPT));
        }
      } catch (caught) {
        if (current && going) {
          failed(said(caught));
        }
      }
      if (current && going) {
        timer = setTimeout(() => void look(), LOOK_MS);
      }
    };
    if (status === 'live') {
      void look();
    }
    return () => {
      current = false;
      clearTimeout(timer);
    };
  }, [job.id, going, job.phase, status]);
  return lines;
}
