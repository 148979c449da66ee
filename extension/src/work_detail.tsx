/** One deployment or report in the panel: figures, buttons, and its log as it is written. */
import * as React from 'react';
import { Detail, NotebookButton } from './detail';
import { useEnv, useSnapshot } from './env';
import { caughtFault, Fault } from './faults';
import { isLive } from './model';
import { Line } from './parts';
import type { Job, LogLine } from './shapes';
import { UsageDialog } from './usage';
import { Deed, Deeds, Facts, Lines } from './work';
import { fileName, kindName } from './words';

const LOOK_MS = 1000;
const KEPT = 1000;

export function WorkDetail(props: { job: Job; onBack: () => void; onOpen: (id: string) => void }): React.ReactElement {
  const { model, trans } = useEnv();
  const { status } = useSnapshot();
  const { job } = props;
  const [fault, setFault] = React.useState<Fault | null>(null);
  const [busy, setBusy] = React.useState(false);
  const [usage, setUsage] = React.useState(false);
  const lines = useLog(job, setFault);
  const act = async (deed: Deed, replicas?: number) => {
    setBusy(true);
    setFault(null);
    try {
      const { id } = await model.api.deed(deed, job.id, replicas);
      if (id !== job.id) {
        props.onOpen(id);
      }
    } catch (caught) {
      setFault(caughtFault(caught));
    } finally {
      setBusy(false);
    }
  };
  return (
    <Detail job={job} label={trans.__('%1 %2', kindName(job.kind, trans), job.name)} fault={fault} onBack={props.onBack}>
      <Facts job={job} trans={trans} onUsage={() => setUsage(true)} />
      <Files job={job} />
      <Deeds job={job} trans={trans} disabled={busy || status !== 'live'} onDeed={(deed, replicas) => void act(deed, replicas)} />
      <div className="rios-buttons">
        <NotebookButton />
      </div>
      <Lines lines={lines} trans={trans} />
      {usage ? <UsageDialog title={trans.__('Usage of %1', job.name)} filters={{ job: job.id }} onClose={() => setUsage(false)} /> : null}
    </Detail>
  );
}

/** Links to what came of a report. */
function Files(props: { job: Job }): React.ReactElement | null {
  const { model, trans } = useEnv();
  const { job } = props;
  const links = job.files.flatMap(kind => {
    const address = model.api.file(job.id, kind);
    return address === null ? [] : [{ kind, address }];
  });
  return links.length === 0 ? null : (
    <dl>
      <Line label={trans.__('Files')}>
        {links.map(({ kind, address }) => (
          <a key={kind} className="rios-link rios-file" href={address} download={`${job.name}.${kind}`} target="_blank" rel="noreferrer">
            {fileName(kind, trans)}
          </a>
        ))}
      </Line>
    </dl>
  );
}

/** What it has written, asked for again each second while it goes on, and once more after its end. */
function useLog(job: Job, failed: (fault: Fault) => void): readonly LogLine[] {
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
          failed(caughtFault(caught));
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
