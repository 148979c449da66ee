/** Workers and models: who is there, how full, and who holds what of a model under which load. */
import * as React from 'react';
import { size, useEnv, useSnapshot } from './env';
import { Asked, Bar, SectionProblem } from './parts';
import type { Worker } from './shapes';
import { hostState, roleName } from './words';

export function HostsView(): React.ReactElement {
  const { model, trans } = useEnv();
  const { sections, jobs } = useSnapshot();
  const [shown, setShown] = React.useState<string | null>(null);
  const workers = sections.workers;
  const models = sections.models;
  return (
    <section className="rios-hosts" aria-label={trans.__('Workers and models')}>
      {workers ? <SectionProblem problem={workers.error} at={workers.data ? workers.at : null} /> : null}
      <h3>{trans.__('Workers')}</h3>
      {workers?.data?.workers.length === 0 ? <p>{trans.__('No worker has joined.')}</p> : null}
      <ul>{workers?.data?.workers.map(one => <WorkerView key={one.name} worker={one} />)}</ul>
      <h3>{trans.__('Models')}</h3>
      {models?.data?.models.length === 0 ? <p>{trans.__('None is deployed. net.dmoe.deploy("demo") does it.')}</p> : null}
      <ul>
        {models?.data?.models.map(one => (
          <li key={one.name}>
            <button
              className="rios-button"
              aria-expanded={shown === one.name}
              onClick={() => setShown(shown === one.name ? null : one.name)}
            >
              {one.name}
            </button>
            {shown === one.name ? (
              <Asked ask={() => model.api.placement(one.name)} again={`${one.name} ${jobs.size}`}>
                {found => (
                  <div className="rios-placement">
                    <ul>
                      {found.hosts.map(host => (
                        <li key={host.name}>
                          <b>{host.name}</b> {roleName(host.role, trans)} · {hostState(host.state, trans)}
                          <br />
                          {trans.__('%1 experts, %2, %3 % of the load', host.experts, size(host.bytes), Math.round(host.load * 100))}
                          <Bar share={host.load} label={trans.__('Load of %1', host.name)} />
                        </li>
                      ))}
                    </ul>
                    <p className="rios-explain">{found.explain}</p>
                  </div>
                )}
              </Asked>
            ) : null}
          </li>
        ))}
      </ul>
    </section>
  );
}

function WorkerView(props: { worker: Worker }): React.ReactElement {
  const { trans } = useEnv();
  const { worker } = props;
  const part = worker.memory_bytes ? worker.reserved_bytes / worker.memory_bytes : 0;
  const memory = trans.__('%1 of %2', size(worker.reserved_bytes), size(worker.memory_bytes));
  return (
    <li>
      <span className={worker.state === 'serving' ? 'rios-good' : 'rios-bad'} aria-hidden="true">
        ●
      </span>{' '}
      <b>{worker.name}</b> {hostState(worker.state, trans)} · {worker.device}
      <br />
      {trans.__('%1 experts', worker.experts)} · {memory}
      <Bar share={part} label={trans.__('Memory of %1: %2', worker.name, memory)} level={part > 0.9 ? 'bad' : 'ok'} />
      {worker.gpu ? <GpuView name={worker.name} gpu={worker.gpu} /> : null}
    </li>
  );
}

function GpuView(props: { name: string; gpu: NonNullable<Worker['gpu']> }): React.ReactElement {
  const { trans } = useEnv();
  const { name, gpu } = props;
  if ('error' in gpu) {
    return (
      <div className="rios-gpu">
        {trans.__('Its GPU gives no figures:')} <span lang="en">{gpu.error}</span>
      </div>
    );
  }
  const memory = trans.__('%1 of %2', size(gpu.used_bytes), size(gpu.total_bytes));
  const part = gpu.total_bytes ? gpu.used_bytes / gpu.total_bytes : 0;
  return (
    <div className="rios-gpu">
      {trans.__('GPU load %1 %', gpu.percent)}
      <Bar share={gpu.percent / 100} label={trans.__('GPU load of %1', name)} />
      {trans.__('GPU memory %1', memory)}
      <Bar share={part} label={trans.__('GPU memory of %1: %2', name, memory)} level={part > 0.9 ? 'bad' : 'ok'} />
    </div>
  );
}
