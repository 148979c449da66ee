/** The state of a panel: fetched once, kept current by events, and known to be old when they stop. Views only read it. */
import { Api, Following, Listener, Networks, Transport } from './api';
import { caughtFault, Fault, faultOf, PanelError } from './faults';
import * as shapes from './shapes';

/**
 * none: there is no network. loading: nothing is known yet. live: current. stale: known, not current.
 * outage: nothing is known, for nobody answers. forbidden: the network does not let us. out: who looks is not signed in,
 * and may be anybody: nothing of whoever was is kept.
 */
export type Status = 'none' | 'loading' | 'live' | 'stale' | 'outage' | 'forbidden' | 'out';

/** One moment of the panel; a new object whenever something changed. */
export interface Snapshot {
  status: Status;
  /** When it was last known to be current, in milliseconds since 1970. */
  heardAt: number | null;
  problem: Fault | null;
  networks: shapes.Network[];
  network: shapes.Network | null;
  sections: Partial<shapes.Sections>;
  jobs: ReadonlyMap<string, shapes.Job>;
  onChainWei: string | null;
  /** Why there are no generations among the jobs. */
  jobsProblem: shapes.Problem | null;
}

type Ended = (job: shapes.Job) => void;

const RETRY_MS = [500, 1000, 2000, 4000, 8000];
const EMPTY: ReadonlyMap<string, shapes.Job> = new Map();

export class PanelModel implements Listener {
  readonly allNetworks: Networks;
  snapshot: Snapshot = {
    status: 'loading',
    heardAt: null,
    problem: null,
    networks: [],
    network: null,
    sections: {},
    jobs: EMPTY,
    onChainWei: null,
    jobsProblem: null
  };

  private readonly listeners = new Set<() => void>();
  private readonly ended = new Set<Ended>();
  private following: Following | null = null;
  private last: string | null = null;
  private jobs = new Map<string, shapes.Job>();
  private wanted: string | null = null;
  private readonly chosen = new Set<(id: string | null) => void>();
  private timer: ReturnType<typeof setTimeout> | undefined;
  private fetches = 0;
  private tries = 0;
  private closed = false;
  /** The network does not answer, whoever leads to it does. */
  private unheard = false;

  constructor(private readonly transport: Transport) {
    this.allNetworks = new Networks(transport);
  }

  /** Begin. wanted: the network that was looked at before, where there was one. */
  start(wanted: string | null): void {
    this.wanted = wanted;
    this.following = this.transport.follow(this);
  }

  /** The panel of the network that is looked at. Throws PanelError where there is none. */
  get api(): Api {
    const network = this.snapshot.network;
    if (network === null) {
      throw new PanelError('gone', 'here:network', '');
    }
    return new Api(this.transport, network.id);
  }

  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  current = (): Snapshot => this.snapshot;

  /** Have `listener` called with each job that ended while it was watched. */
  onEnded(listener: Ended): void {
    this.ended.add(listener);
  }

  /** Have `listener` called when another network is looked at. */
  onChosen(listener: (id: string | null) => void): void {
    this.chosen.add(listener);
  }

  /** Look at another network. */
  choose(id: string | null): void {
    this.wanted = id;
    this.select();
  }

  /** Read everything anew. */
  refresh(): void {
    this.last = null;
    void this.fetch();
  }

  /** Ask for what the wallet has on the chain, which may start the chain. */
  async lookAtChain(): Promise<void> {
    const network = this.snapshot.network?.id;
    const found = await this.api.chain();
    if (network === this.snapshot.network?.id) {
      this.set({ onChainWei: found.on_chain_wei });
    }
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.timer);
    this.following?.end();
    this.listeners.clear();
  }

  // --- what happens ----------------------------------------------------------------------------------------

  alive(): void {
    if (this.snapshot.status === 'stale' && this.snapshot.network !== null) {
      if (this.unheard) {
        return; // it is asked again and again, and says itself when it is back
      }
      this.set({ status: 'live', heardAt: Date.now(), problem: null });
    } else if (this.snapshot.status === 'live') {
      this.snapshot.heardAt = Date.now(); // every few seconds; nothing is drawn anew for it
    } else if (['outage', 'forbidden', 'out'].includes(this.snapshot.status)) {
      this.set({ status: 'loading', problem: null });
      this.select();
    }
  }

  away(signedOut: boolean): void {
    if (signedOut) {
      this.out();
    } else if (this.snapshot.status !== 'out') {
      this.fell('outage', null);
    }
  }

  networks(found: unknown): void {
    const read = shapes.Networks.safeParse(found);
    if (read.success) {
      this.set({ networks: read.data });
      this.select();
    }
  }

  event(network: string, said: unknown): void {
    const event = shapes.Event.safeParse(said);
    if (network !== this.snapshot.network?.id || !event.success) {
      return;
    }
    if (event.data.name === 'reset') {
      // Another server, or another user who signed in: what is kept of before would be shown as this one's.
      this.jobs = new Map();
      this.set({ sections: {}, jobs: EMPTY, onChainWei: null });
      this.refresh();
      return;
    }
    this.last = event.data.id;
    if (event.data.name === 'jobs') {
      const found = shapes.JobsEvent.safeParse(event.data.data);
      if (found.success) {
        this.take(found.data.jobs);
      }
    } else if (event.data.name === 'section') {
      const found = shapes.SectionEvent.safeParse(event.data.data);
      if (found.success) {
        this.takeSection(found.data.name, found.data.section);
      }
    }
  }

  lost(network: string, said: unknown): void {
    if (network === this.snapshot.network?.id) {
      const problem = shapes.Lost.safeParse(said);
      if (problem.success && this.snapshot.heardAt !== null) {
        this.snapshot.heardAt = Math.min(this.snapshot.heardAt, Date.now() - problem.data.silent_s * 1000);
      }
      this.unheard = true;
      this.fell('outage', problem.success ? faultOf(problem.data) : null);
      this.again();
    }
  }

  // --- how the state changes -------------------------------------------------------------------------------

  private set(change: Partial<Snapshot>): void {
    if (this.closed) {
      return;
    }
    this.snapshot = { ...this.snapshot, ...change };
    for (const listener of this.listeners) {
      listener();
    }
  }

  private select(): void {
    const { networks, network } = this.snapshot;
    const found =
      networks.find(one => one.id === this.wanted) ?? networks.find(one => one.id === network?.id) ?? networks.at(-1) ?? null;
    if (found === null) {
      this.following?.network(null, () => null);
      const nothing = { network: null, sections: {}, jobs: EMPTY, onChainWei: null, heardAt: null };
      this.set({ status: 'none', problem: null, ...nothing });
      return;
    }
    if (found.id === network?.id) {
      this.set({ network: found });
      if (this.snapshot.status === 'loading') {
        void this.fetch();
      }
      return;
    }
    this.last = null;
    this.unheard = false;
    this.jobs = new Map();
    this.set({ status: 'loading', network: found, sections: {}, jobs: EMPTY, onChainWei: null, heardAt: null, problem: null });
    for (const listener of this.chosen) {
      listener(found.id);
    }
    void this.fetch();
  }

  private async fetch(): Promise<void> {
    const network = this.snapshot.network;
    const fetch = ++this.fetches;
    if (network === null || this.closed) {
      return;
    }
    try {
      const state = await this.api.state();
      if (fetch !== this.fetches) {
        return;
      }
      this.tries = 0;
      this.unheard = false;
      this.last = state.last;
      this.jobs = new Map(state.jobs.map(job => [job.id, job]));
      this.set({
        status: 'live',
        heardAt: Date.now(),
        problem: null,
        sections: this.kept(state.sections),
        jobs: this.jobs,
        jobsProblem: state.jobs_problem
      });
      this.following?.network(network.id, () => this.last);
    } catch (error) {
      if (fetch !== this.fetches) {
        return;
      }
      const fault = caughtFault(error);
      this.unheard = true;
      this.fell(fault.kind === 'forbidden' ? 'forbidden' : 'outage', fault);
      this.again();
    }
  }

  private again(): void {
    clearTimeout(this.timer);
    const wait = RETRY_MS[Math.min(this.tries++, RETRY_MS.length - 1)] ?? 8000;
    this.timer = setTimeout(() => void this.fetch(), wait);
  }

  /** Whoever lets people in does not know who looks now. */
  private out(): void {
    this.fetches++; // what is under way comes for somebody who has gone
    clearTimeout(this.timer);
    this.last = null;
    this.jobs = new Map();
    const nothing = { heardAt: null, problem: null, networks: [], network: null, sections: {}, jobs: EMPTY, onChainWei: null };
    this.set({ status: 'out', ...nothing, jobsProblem: null });
  }

  /** Nothing comes any more: what is known stays, and shows since when. */
  private fell(status: 'outage' | 'forbidden', problem: Fault | null): void {
    const known = this.snapshot.heardAt !== null && this.snapshot.network !== null;
    this.set({ status: status === 'outage' && known ? 'stale' : status, problem });
  }

  private take(changed: shapes.Job[]): void {
    const ended: shapes.Job[] = [];
    const jobs = new Map(this.jobs);
    for (const job of changed) {
      const before = jobs.get(job.id);
      jobs.set(job.id, job);
      if (before !== undefined ? isLive(before) && !isLive(job) : !isLive(job) && Date.now() / 1000 - job.started_at < 60) {
        ended.push(job);
      }
    }
    this.jobs = jobs;
    this.set({ jobs, heardAt: Date.now() });
    for (const job of ended) {
      for (const listener of this.ended) {
        listener(job);
      }
    }
  }

  private takeSection(name: string, said: unknown): void {
    const shape = shapes.Sections.shape;
    if (!(name in shape)) {
      return;
    }
    const found = shape[name as shapes.SectionName].safeParse(said);
    if (found.success) {
      this.set({ sections: this.kept({ [name]: found.data }), heardAt: Date.now() });
    }
  }

  /** A section that cannot be had now keeps the data it had, with their time and the reason. */
  private kept(fresh: Partial<shapes.Sections>): Partial<shapes.Sections> {
    const sections: Record<string, unknown> = { ...this.snapshot.sections };
    for (const [name, section] of Object.entries(fresh)) {
      const before = this.snapshot.sections[name as shapes.SectionName];
      sections[name] = section.data === null && before?.data ? { ...before, error: section.error } : section;
    }
    return sections as Partial<shapes.Sections>;
  }
}

/** Whether a job goes on. */
export function isLive(job: shapes.Job): boolean {
  return job.state === 'queued' || job.state === 'running' || job.state === 'paused';
}
