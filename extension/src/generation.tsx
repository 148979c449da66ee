/** One model in a notebook: a prompt, its answer as it comes, its speed and cost, and who computes it. */
import * as React from 'react';
import * as z from 'zod/mini';
import { faultOf, SILENCE } from './faults';
import { ros, shortRos } from './money';
import { Trouble } from './parts';
import { Job, Problem } from './shapes';
import { texts as trans } from './text';
import { useChanged, useSilence, WidgetModel } from './traits';
import { roleName, stateName } from './words';

const Hosts = z.array(z.object({ name: z.string(), role: z.string(), load: z.number() }));
const NAMES = ['answer', 'job', 'hosts', 'problem', 'prompt', 'params', 'draft'];

export function GenerationView(props: { model: WidgetModel }): React.ReactElement {
  const { model } = props;
  useChanged(model, NAMES);
  // What is typed is kept with the model, for the view is drawn anew when the answer is there; it is not sent before.
  const prompt = String(model.get('draft') ?? model.get('prompt'));
  const params = (model.get('params') ?? {}) as Record<string, unknown>;
  const job = Job.safeParse(model.get('job')).data;
  const hosts = Hosts.safeParse(model.get('hosts')).data ?? [];
  const problem = Problem.safeParse(model.get('problem')).data;
  const live = job !== undefined && ['queued', 'running', 'paused'].includes(job.state);
  const [asked, setAsked] = React.useState(false);
  const silent = useSilence(model, live || asked);
  const state = `${job?.id ?? ''} ${problem?.detail ?? ''}`;
  React.useEffect(() => setAsked(false), [state]);
  const id = React.useId();
  const number = (name: string, label: string, step: number) => (
    <label>
      {label}{' '}
      <input
        type="number"
        min={0}
        step={step}
        style={{ width: 72 }}
        placeholder={name === 'temperature' ? '0' : ''}
        value={String(params[name] ?? '')}
        onChange={event => {
          model.set('params', { ...params, [name]: event.target.value === '' ? null : Number(event.target.value) });
          model.save_changes();
        }}
      />
    </label>
  );
  const start = () => {
    model.set('prompt', prompt);
    model.set('draft', null);
    model.save_changes();
    setAsked(true);
    model.send({ do: 'start' });
  };
  const seconds = job === undefined ? 0 : (job.ended_at ?? Date.now() / 1000) - job.started_at;
  const perSecond = job === undefined || seconds <= 0 ? '0' : (BigInt(job.cost_wei) / BigInt(Math.max(1, Math.ceil(seconds)))).toString();
  return (
    <div className="rios-widget rios-panel rios-generation">
      <label htmlFor={id}>{String(model.get('model_name'))}</label>
      <textarea
        id={id}
        rows={3}
        value={prompt}
        autoFocus={model.get('typing') === true}
        onFocus={() => model.set('typing', true)}
        onBlur={() => model.set('typing', false)}
        onChange={event => model.set('draft', event.target.value)}
        onKeyDown={event => event.stopPropagation()}
      />
      <div className="rios-buttons">
        <button className="rios-button rios-primary" disabled={live || prompt === ''} onClick={start}>
          {trans.__('Generate')}
        </button>
        <button className="rios-button" disabled={!live || silent} onClick={() => model.send({ do: 'stop' })}>
          {trans.__('Stop')}
        </button>
        {number('max_new_tokens', trans.__('tokens'), 1)} {number('temperature', trans.__('temperature'), 0.1)}
      </div>
      <Trouble fault={silent ? SILENCE : problem ? faultOf(problem) : null} trans={trans} />
      <div className="rios-log" role="log" tabIndex={0} aria-label={trans.__('Answer')}>
        <span className="rios-prompt">{String(model.get('prompt'))}</span>
        <span className="rios-answer">{String(model.get('answer'))}</span>
      </div>
      {job === undefined ? null : (
        <p className="rios-figures" title={`${ros(job.cost_wei)} ROS`} data-wei={job.cost_wei}>
          {trans.__(
            '%1 · %2 of %3 tokens · %4 tokens/s · %5%6 ROS · %7 ROS/s',
            stateName(job.state, trans),
            job.tokens,
            job.tokens_max,
            job.tokens_per_second?.toFixed(1) ?? '–',
            job.posted ? '' : '≈ ',
            shortRos(job.cost_wei),
            shortRos(perSecond)
          )}
        </p>
      )}
      <ul>
        {hosts.map(host => (
          <li key={host.name}>
            {host.name} {roleName(host.role, trans)} · {Math.round(host.load * 100)} %
            <div className="rios-bar" role="meter" aria-label={host.name} aria-valuenow={Math.round(host.load * 100)} aria-valuemin={0} aria-valuemax={100}>
              <div style={{ width: `${host.load * 100}%` }} />
            </div>
          </li>
        ))}
      </ul>
    </div>
  );
}
