/** What a panel may say, checked before anything shows it. Unknown fields are dropped. */
import * as z from 'zod/mini';
import { isWei } from './money';

const wei = z.string().check(z.refine(isWei, 'not an amount of wei'));
const seconds = z.number().check(z.nonnegative());
const count = z.int().check(z.nonnegative());

export const Problem = z.object({ type: z.string(), detail: z.string() });
export type Problem = z.infer<typeof Problem>;
/** Why a network cannot be followed, and for how many seconds it has said nothing. */
export const Lost = z.extend(Problem, { silent_s: z._default(z.number(), 0) });

export const Network = z.object({
  id: z.string().check(z.regex(/^[0-9a-f]{16}$/)),
  kind: z.enum(['local', 'remote']),
  address: z.string(),
  kernel: z.nullable(z.string()),
  started_at: seconds,
  notebook: z._default(z.string(), '')
});
export type Network = z.infer<typeof Network>;

export const Networks = z.array(Network);

export const Job = z.object({
  id: z.string(),
  kind: z.string(),
  name: z.string(),
  model: z.string(),
  owner: z.string(),
  owner_login: z.string(),
  state: z.enum(['queued', 'running', 'paused', 'done', 'failed', 'cancelled', 'lost']),
  tokens: count,
  tokens_max: count,
  prompt_tokens: count,
  tokens_per_second: z.nullable(z.number()),
  started_at: seconds,
  ended_at: z.nullable(seconds),
  cost_wei: wei,
  posted: z.boolean(),
  hosts: z.array(z.string()),
  error: z.string(),
  phase: z._default(z.string(), ''),
  parts: z._default(count, 0),
  parts_max: z._default(count, 0),
  requests: z._default(count, 0),
  deeds: z._default(z.array(z.string()), []),
  files: z._default(z.array(z.string()), [])
});
export type Job = z.infer<typeof Job>;

const Who = z.object({ address: z.string(), kind: z.string(), account: z.string() });
const Wallet = z.object({
  address: z.nullable(z.string()),
  deposited_wei: wei,
  trial_wei: wei,
  held_wei: wei,
  withdrawing_wei: wei,
  overdrawn_wei: wei,
  available_wei: wei
});
const Budget = z.object({
  period: z.enum(['day', 'week', 'month', 'total']),
  limit_wei: wei,
  spent_wei: wei,
  held_wei: wei,
  hard: z.boolean(),
  since: z._default(z.string(), '')
});
export type Budget = z.infer<typeof Budget>;
const Day = z.object({ day: z.string(), wei });
export type Day = z.infer<typeof Day>;
const Spend = z.object({ today_wei: wei, month_wei: wei, days: z.array(Day), budgets: z.array(Budget) });
const Earnings = z.object({
  owner: z.string(),
  earned_wei: wei,
  pending_wei: wei,
  claimable_wei: wei,
  claimed_wei: wei
});
const Worker = z.object({
  name: z.string(),
  state: z.string(),
  device: z.string(),
  experts: z.number(),
  memory_bytes: z.number(),
  reserved_bytes: z.number(),
  gpu: z.nullable(
    z.union([
      z.object({ percent: z.number(), used_bytes: z.number(), total_bytes: z.number() }),
      z.object({ error: z.string() }) // why there are no figures: a container may hide them
    ])
  )
});
export type Worker = z.infer<typeof Worker>;

/** A section: its data, or why there are none now. */
function section<T extends z.ZodMiniType>(data: T) {
  return z.object({ at: seconds, data: z.nullable(data), error: z.nullable(Problem) });
}

export const Sections = z.object({
  network: section(Who),
  wallet: section(Wallet),
  spend: section(Spend),
  earnings: section(Earnings),
  workers: section(z.object({ workers: z.array(Worker) })),
  models: section(z.object({ models: z.array(z.object({ name: z.string() })) }))
});
export type Sections = z.infer<typeof Sections>;
export type SectionName = keyof Sections;

export const State = z.object({ last: z.string(), sections: Sections, jobs: z.array(Job), jobs_problem: z._default(z.nullable(Problem), null) });
export type State = z.infer<typeof State>;

export const Event = z.object({ id: z.string(), name: z.string(), data: z.unknown() });
export const JobsEvent = z.object({ jobs: z.array(Job) });
export const SectionEvent = z.object({ name: z.string(), section: z.unknown() });

export const Chain = z.object({ at: seconds, on_chain_wei: wei });
export const Usage = z.object({
  rows: z.array(
    z.object({
      usage_id: z.string(),
      at: seconds,
      model: z.string(),
      worker: z.string(),
      resource: z.string(),
      quantity: z.string(),
      unit: z.string(),
      price: z.string(),
      amount_wei: wei,
      epoch: z.nullable(z.number())
    })
  ),
  count: z.number(),
  total_wei: wei,
  refunded_wei: z._default(wei, '0')
});
export type Usage = z.infer<typeof Usage>;
export const Earned = z.object({
  lines: z.array(z.object({ worker: z.string(), model: z.string(), resource: z.string(), wei }))
});
export const Proof = z.object({
  usage_id: z.string(),
  verified: z.boolean(),
  links: z.array(z.object({ name: z.string(), state: z.string(), reason: z.string() }))
});
export type Proof = z.infer<typeof Proof>;
export const Placement = z.object({
  model: z.string(),
  explain: z.string(),
  hosts: z.array(
    z.object({
      name: z.string(),
      state: z.string(),
      role: z.string(),
      experts: z.number(),
      bytes: z.number(),
      load: z.number()
    })
  )
});
export type Placement = z.infer<typeof Placement>;
export const JobDetail = z.object({
  job: Job,
  prompt: z.string(),
  answer: z.string(),
  params: z.record(z.string(), z.unknown())
});
export type JobDetail = z.infer<typeof JobDetail>;
const LogLine = z.object({ at: seconds, who: z.string(), text: z.string() });
export type LogLine = z.infer<typeof LogLine>;
export const LogLines = z.array(LogLine);
export const Log = z.object({ lines: LogLines, next: seconds });
export type Log = z.infer<typeof Log>;
export const Plan = z.object({
  plan: z.string(),
  action: z.string(),
  changes: z.array(z.object({ what: z.string(), before_wei: z.nullable(wei), after_wei: z.nullable(wei) })),
  notes: z.array(z.string())
});
export type Plan = z.infer<typeof Plan>;
export const Done = z.object({ plan: z.string(), said: z.string(), wei: z.optional(wei) });
export type Done = z.infer<typeof Done>;
export const JobId = z.object({ id: z.string() });
