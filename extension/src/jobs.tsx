/** The jobs: found, sorted, grouped, and each with its log and what can be done about it. */
import * as React from 'react';
import { Detail, NotebookButton } from './detail';
import { age, dateTime, Trans, useEnv, useNow, useSnapshot } from './env';
import { caughtFault, Fault } from './faults';
import { isLive } from './model';
import { Amount, Asked, Bar, Line, Owner, SectionProblem } from './parts';
import type { Job } from './shapes';
import { GROUPS, KINDS, Row, rowsOf, SORTS, STATES } from './sorting';
import { UsageDialog } from './usage';
import { VirtualList } from './virtual';
import { progress } from './work';
import { WorkDetail } from './work_detail';
import { kindName, phaseName, stateName } from './words';

const ROW_HEIGHT = 44;
const SIGNS: Record<Job['state'], string> = {
  queued: '◌',
  running: '▶',
  paused: '⏸',
  done: '✓',
  failed: '✕',
  cancelled: '■',
  lost: '✕'
};

export function JobsView(): React.ReactElement {
  const { trans, prefs, keep } = useEnv();
  const { jobs, jobsProblem, status } = useSnapshot();
  const { search, state, kind, sort, group } = prefs;
  const [filters, setFilters] = React.useState({ search, state, kind, sort, group });
  const [opened, setOpened] = React.useState<string | null>(null);
  const rows = React.useMemo(
    () => rowsOf(jobs.values(), filters.search, filters.state, filters.kind, filters.sort, filters.group),
    [jobs, filters]
  );
  const anyLive = React.useMemo(() => [...jobs.values()].some(isLive), [jobs]);
  const now = useNow(anyLive ? 1000 : 30_000);
  const change = (changed: Partial<typeof filters>) => {
    setFilters({ ...filters, ...changed });
    keep(changed);
  };
  const job = opened === null ? undefined : jobs.get(opened);
  if (job !== undefined) {
    if (job.kind !== 'generation') {
      return <WorkDetail key={job.id} job={job} onBack={() => setOpened(null)} onOpen={setOpened} />;
    }
    return <JobDetail job={job} onBack={() => setOpened(null)} onOpen={setOpened} />;
  }
  const sorts: Record<string, string> = {
    newest: trans.__('newest'),
    oldest: trans.__('oldest'),
    cost: trans.__('cost'),
    speed: trans.__('speed'),
    tokens: trans.__('tokens')
  };
  const groups: Record<string, string> = {
    none: trans.__('no groups'),
    kind: trans.__('by kind'),
    model: trans.__('by model'),
    owner: trans.__('by owner'),
    state: trans.__('by state')
  };
  return (
    <section className="rios-jobs" aria-label={trans.__('Jobs')}>
      <div className="rios-filters" role="search">
        <input
          type="search"
          aria-label={trans.__('Search jobs')}
          placeholder={trans.__('Search jobs')}
          value={filters.search}
          onChange={event => change({ search: event.target.value })}
        />
        <Choice label={trans.__('State')} value={filters.state} all={STATES} name={one => stateName(one, trans)} onChange={chosen => change({ state: chosen })} />
        <Choice
          label={trans.__('Kind')}
          value={filters.kind}
          all={KINDS}
          name={one => (one === 'all' ? trans.__('all kinds') : kindName(one, trans))}
          onChange={chosen => change({ kind: chosen })}
        />
        <Choice label={trans.__('Order')} value={filters.sort} all={SORTS} name={one => sorts[one] ?? one} onChange={chosen => change({ sort: chosen })} />
        <Choice label={trans.__('Groups')} value={filters.group} all={GROUPS} name={one => groups[one] ?? one} onChange={chosen => change({ group: chosen })} />
      </div>
      <SectionProblem problem={jobsProblem} />
      <p className="rios-count" role="status">
        {jobs.size === 0 && jobsProblem !== null ? '' : jobs.size === 0 ? (status === 'live' ? trans.__('No job yet. model.generate("...") starts one.') : '') : trans.__('%1 of %2 jobs', rows.filter(row => 'job' in row).length, jobs.size)}
      </p>
      {jobs.size > 0 ? (
        <VirtualList
          rows={rows}
          rowHeight={ROW_HEIGHT}
          label={trans.__('Jobs')}
          keyOf={row => row.key}
          onOpen={row => ('job' in row ? setOpened(row.job.id) : undefined)}
          render={row => <RowView row={row} now={now} />}
        />
      ) : null}
    </section>
  );
}

function Choice(props: {
  label: string;
  value: string;
  all: readonly string[];
  name: (one: string) => string;
  onChange: (value: string) => void;
}): React.ReactElement {
  return (
    <select aria-label={props.label} value={props.value} onChange={event => props.onChange(event.target.value)}>
      {props.all.map(one => (
        <option key={one} value={one}>
          {props.name(one)}
        </option>
      ))}
    </select>
  );
}

function headingOf(by: string, heading: string, trans: Trans): string {
  return by === 'state' ? stateName(heading, trans) : by === 'kind' ? kindName(heading, trans) : heading;
}

const RowView = React.memo(function RowView(props: { row: Row; now: number }): React.ReactElement {
  const { trans } = useEnv();
  const { row, now } = props;
  if (!('job' in row)) {
    return (
      <div className="rios-heading">
        {headingOf(row.by, row.heading, trans)} · {row.count}
      </div>
    );
  }
  const { job } = row;
  const generation = job.kind === 'generation';
  const word = generation ? stateName(job.state, trans) : phaseName(job.phase, trans);
  const [done, all] = generation ? [job.tokens, job.tokens_max] : [job.parts, job.parts_max];
  const speed = job.tokens_per_second === null ? '' : trans.__(' · %1/s', job.tokens_per_second.toFixed(1));
  return (
    <>
      <div className="rios-row-top">
        <span className={`rios-state rios-state-${job.state}`} role="img" aria-label={word} title={word}>
          {SIGNS[job.state]}
        </span>
        <span className="rios-name" title={`${job.name}\n${job.id}`}>
          {job.name}
        </span>
        <span className="rios-cost" title={job.posted ? trans.__('posted') : trans.__('so far, about')}>
          {job.posted ? '' : '≈ '}
          <Amount wei={job.cost_wei} />
        </span>
      </div>
      <div className="rios-row-low">
        <span>
          {generation ? trans.__('%1/%2 tokens', job.tokens, job.tokens_max) : `${kindName(job.kind, trans)} · ${progress(job, trans)}`}
          {speed}
        </span>
        <span>
          <Owner job={job} /> · {age(now - job.started_at * 1000, trans)}
        </span>
      </div>
      {isLive(job) && (generation || done < all) ? (
        <div className="rios-progress" aria-hidden="true">
          <div style={{ width: `${all ? (100 * done) / all : 0}%` }} />
        </div>
      ) : null}
    </>
  );
});

function JobDetail(props: { job: Job; onBack: () => void; onOpen: (id: string) => void }): React.ReactElement {
  const { model, trans } = useEnv();
  const { status } = useSnapshot();
  const [fault, setFault] = React.useState<Fault | null>(null);
  const [usage, setUsage] = React.useState(false);
  const { job } = props;
  const live = isLive(job);
  const run = async (work: () => Promise<unknown>) => {
    setFault(null);
    try {
      await work();
    } catch (caught) {
      setFault(caughtFault(caught));
    }
  };
  const seconds = (job.ended_at ?? Date.now() / 1000) - job.started_at;
  return (
    <Detail job={job} label={trans.__('Job %1', job.name)} fault={fault} onBack={props.onBack}>
      <dl>
        <Line label={trans.__('State')}>
          <span className={`rios-state rios-state-${job.state}`}>{SIGNS[job.state]}</span> {stateName(job.state, trans)}
        </Line>
        <Line label={trans.__('Tokens')}>
          {trans.__('%1 of %2, after %3 of prompt', job.tokens, job.tokens_max, job.prompt_tokens)}
          <Bar share={job.tokens_max ? job.tokens / job.tokens_max : 0} label={trans.__('Tokens')} />
        </Line>
        <Line label={trans.__('Tokens a second')}>{job.tokens_per_second === null ? '–' : job.tokens_per_second.toFixed(1)}</Line>
        <Line label={job.posted ? trans.__('Cost') : trans.__('Cost so far, about')}>
          <Amount wei={job.cost_wei} exact={job.posted} label={trans.__('Usage of this job:')} onOpen={() => setUsage(true)} />
        </Line>
        <Line label={trans.__('Owner')}>
          <Owner job={job} />
        </Line>
        <Line label={trans.__('Hosts')}>{job.hosts.join(', ') || '–'}</Line>
        <Line label={trans.__('Started')}>{dateTime(job.started_at)}</Line>
        <Line label={trans.__('Took')}>{seconds < 60 ? trans.__('%1 s', seconds.toFixed(1)) : age(seconds * 1000, trans)}</Line>
      </dl>
      <div className="rios-buttons">
        {live ? (
          <button className="rios-button" disabled={status !== 'live'} onClick={() => void run(() => model.api.cancel(job.id))}>
            {trans.__('Cancel the job')}
          </button>
        ) : null}
        {job.state === 'lost' ? null : ( // what it was asked went with its gateway
          <button
            className="rios-button"
            disabled={status !== 'live'}
            onClick={() => void run(async () => props.onOpen((await model.api.retry(job.id)).id))}
          >
            {job.state === 'failed' || job.state === 'cancelled' ? trans.__('Retry') : trans.__('Run again')}
          </button>
        )}
        <NotebookButton />
      </div>
      <Log job={job} />
      {usage ? (
        <UsageDialog
          title={trans.__('Usage of %1', job.name)}
          filters={{ request_id: job.id }}
          onClose={() => setUsage(false)}
        />
      ) : null}
    </Detail>
  );
}

/** Prompt and answer, again with each step that the job takes. */
function Log(props: { job: Job }): React.ReactElement {
  const { model, trans } = useEnv();
  const { job } = props;
  return (
    <Asked ask={() => model.api.job(job.id)} again={`${job.id} ${job.tokens} ${job.state}`}>
      {found => (
        <div className="rios-log" tabIndex={0} role="log" aria-label={trans.__('Prompt and answer')}>
          <span className="rios-prompt">{found.prompt}</span>
          <span>{found.answer}</span>
        </div>
      )}
    </Asked>
  );
}
