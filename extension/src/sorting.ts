/** Which jobs show, in which order. Pure, and quick enough for ten thousand at each event. */
import { compareWei } from './money';
import { isLive } from './model';
import type { Job } from './shapes';

export const STATES = ['all', 'live', 'done', 'failed', 'cancelled', 'lost'] as const;
export const SORTS = ['newest', 'oldest', 'cost', 'speed', 'tokens'] as const;
export const GROUPS = ['none', 'kind', 'model', 'owner', 'state'] as const;
export const KINDS = ['all', 'generation', 'deployment', 'report'] as const;

/** A job, or the heading of a group. */
export type Row = { key: string; job: Job } | { key: string; by: string; heading: string; count: number };

function matches(job: Job, words: string[], state: string, kind: string): boolean {
  if (kind !== 'all' && job.kind !== kind) {
    return false;
  }
  if (state !== 'all' && (state === 'live' ? !isLive(job) : job.state !== state)) {
    return false;
  }
  const text = `${job.name} ${job.id} ${job.model} ${job.owner} ${job.owner_login} ${job.kind} ${job.state} ${job.phase} ${job.error}`.toLowerCase();
  return words.every(word => text.includes(word));
}

const ORDERS: Record<string, (a: Job, b: Job) => number> = {
  newest: (a, b) => b.started_at - a.started_at,
  oldest: (a, b) => a.started_at - b.started_at,
  cost: (a, b) => compareWei(b.cost_wei, a.cost_wei),
  speed: (a, b) => (b.tokens_per_second ?? -1) - (a.tokens_per_second ?? -1),
  tokens: (a, b) => b.tokens - a.tokens
};

/** The rows that show: every word of `search` must be in a job's names, and groups are in the order of their names. */
export function rowsOf(
  jobs: Iterable<Job>,
  search: string,
  state: string,
  kind: string,
  sort: string,
  group: string
): Row[] {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  const found = [...jobs].filter(job => matches(job, words, state, kind)).sort(ORDERS[sort] ?? ORDERS['newest']);
  if (group !== 'kind' && group !== 'model' && group !== 'owner' && group !== 'state') {
    return found.map(job => ({ key: job.id, job }));
  }
  const groups = new Map<string, Job[]>();
  for (const job of found) {
    const name = job[group === 'owner' ? 'owner_login' : group];
    const members = groups.get(name);
    if (members) {
      members.push(job);
    } else {
      groups.set(name, [job]);
    }
  }
  return [...groups.entries()]
    .sort(([a], [b]) => a.localeCompare(b))
    .flatMap(([heading, members]) => [
      { key: `group:${heading}`, by: group, heading, count: members.length },
      ...members.map(job => ({ key: job.id, job }))
    ]);
}
