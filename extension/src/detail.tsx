/** The frame of one job, whatever it is: the way back, its name, what went wrong, and below it what it has. */
import * as React from 'react';
import { useEnv, useSnapshot } from './env';
import type { Fault } from './faults';
import { Failure, Trouble } from './parts';
import type { Job } from './shapes';

/** The way to the notebook that made the network; nothing where there is none. */
export function NotebookButton(): React.ReactElement | null {
  const { trans, openNotebook } = useEnv();
  const { network } = useSnapshot();
  return openNotebook !== null && network?.notebook ? (
    <button className="rios-button" onClick={() => openNotebook(network.notebook)}>
      {trans.__('Open the notebook')}
    </button>
  ) : null;
}

export function Detail(props: {
  job: Job;
  label: string;
  fault: Fault | null;
  onBack: () => void;
  children: React.ReactNode;
}): React.ReactElement {
  const { trans } = useEnv();
  const { job } = props;
  const back = React.useRef<HTMLButtonElement>(null);
  React.useEffect(() => back.current?.focus(), []);
  return (
    <section className="rios-detail" aria-label={props.label}>
      <button ref={back} className="rios-button" onClick={props.onBack}>
        ← {trans.__('All jobs')}
      </button>
      <h3>{job.name}</h3>
      <Trouble fault={props.fault} trans={trans} />
      <Failure job={job} trans={trans} />
      {props.children}
    </section>
  );
}
