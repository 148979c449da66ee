/** All that is asked of a panel, and all that it answers, validated. How it travels is the transport's. */
import * as z from 'zod/mini';
import { Kind, PanelError } from './faults';
import * as shapes from './shapes';

/** What a transport brings of an answer. */
export interface Answer {
  status: number;
  body: unknown;
}

/** How requests and events travel: through Jupyter Server, or straight to a gateway. */
export interface Transport {
  /** Send a request to the panel of a network, or with a null id to what is before all networks. Rejects on outage. */
  ask(network: string | null, method: 'GET' | 'POST' | 'DELETE', path: string, body?: unknown): Promise<Answer>;
  /** Follow what happens until the returned function is called; reconnects by itself. */
  follow(listener: Listener): Following;
  /** Where a link to a file of a network's panel leads; null where there is no way for links. */
  file(network: string, query: string): string | null;
}

/** Who hears what happens. */
export interface Listener {
  /** Connected, and heard of just now. */
  alive(): void;
  /** Not connected; a new try is under way. `signedOut` where the sign-in is at fault. */
  away(signedOut: boolean): void;
  networks(found: unknown): void;
  event(network: string, event: unknown): void;
  /** The followed network cannot be followed now. */
  lost(network: string, problem: unknown): void;
}

/** A running subscription. */
export interface Following {
  /** Follow this network, after the event of this id. */
  network(id: string | null, last: () => string | null): void;
  end(): void;
}

function kindOf(status: number): Kind {
  if (status === 401 || status === 403) {
    return 'forbidden';
  }
  if (status === 404) {
    return 'gone';
  }
  return status < 500 ? 'refused' : 'outage';
}

/** The answer's body as `shape` has it. Throws PanelError. */
export function read<T extends z.ZodMiniType>(shape: T, answer: Answer): z.infer<T> {
  if (answer.status < 200 || answer.status >= 300) {
    const said = shapes.Problem.safeParse(answer.body);
    const { type, detail } = said.success ? said.data : { type: 'here:status', detail: String(answer.status) };
    throw new PanelError(kindOf(answer.status), type, detail);
  }
  const found = shape.safeParse(answer.body);
  if (!found.success) {
    const where = found.error.issues[0];
    const place = where ? `${where.path.join('.')}: ${where.message}` : '';
    throw new PanelError('outage', 'here:shape', place);
  }
  return found.data;
}

/** The panel of one network. */
export class Api {
  constructor(
    private readonly transport: Transport,
    private readonly network: string
  ) {}

  state(): Promise<shapes.State> {
    return this.get(shapes.State, 'state');
  }

  chain(): Promise<z.infer<typeof shapes.Chain>> {
    return this.get(shapes.Chain, 'chain');
  }

  usage(filters: Record<string, string>): Promise<shapes.Usage> {
    return this.get(shapes.Usage, 'usage', filters);
  }

  earned(): Promise<z.infer<typeof shapes.Earned>> {
    return this.get(shapes.Earned, 'earned');
  }

  /** The address of a report's file; null where files cannot be linked to. */
  file(id: string, kind: string): string | null {
    return this.transport.file(this.network, new URLSearchParams({ id, kind }).toString());
  }

  proof(usageId: string): Promise<shapes.Proof> {
    return this.get(shapes.Proof, 'proof', { usage_id: usageId });
  }

  placement(model: string): Promise<shapes.Placement> {
    return this.get(shapes.Placement, 'placement', { model });
  }

  job(id: string): Promise<shapes.JobDetail> {
    return this.get(shapes.JobDetail, 'job', { id });
  }

  plan(action: string, given: Record<string, unknown>): Promise<shapes.Plan> {
    return this.post(shapes.Plan, 'plan', { ...given, action });
  }

  act(plan: string): Promise<shapes.Done> {
    return this.post(shapes.Done, 'act', { plan });
  }

  /** Lines of a deployment or a report after the moment `since`. */
  log(id: string, since: number): Promise<shapes.Log> {
    return this.get(shapes.Log, 'log', { id, since: String(since) });
  }

  /** scale, pause, resume, retry or cancel. */
  deed(name: string, id: string, replicas?: number): Promise<{ id: string }> {
    return this.post(shapes.JobId, `jobs/${name}`, replicas === undefined ? { id } : { id, replicas });
  }

  cancel(id: string): Promise<{ id: string }> {
    return this.post(shapes.JobId, 'jobs/cancel', { id });
  }

  retry(id: string): Promise<{ id: string }> {
    return this.post(shapes.JobId, 'jobs/retry', { id });
  }

  private async get<T extends z.ZodMiniType>(shape: T, path: string, query: Record<string, string> = {}) {
    const text = new URLSearchParams(query).toString();
    return read(shape, await this.transport.ask(this.network, 'GET', text ? `${path}?${text}` : path));
  }

  private async post<T extends z.ZodMiniType>(shape: T, path: string, body: unknown) {
    return read(shape, await this.transport.ask(this.network, 'POST', path, body));
  }
}

const Started = shapes.Network;

/** The networks themselves. */
export class Networks {
  constructor(private readonly transport: Transport) {}

  async startLocal(workers: number): Promise<shapes.Network> {
    return read(Started, await this.transport.ask(null, 'POST', '', { kind: 'local', workers }));
  }

  /** The token goes to the server once, and is not kept here. */
  async connect(url: string, token: string, ca: string): Promise<shapes.Network> {
    return read(Started, await this.transport.ask(null, 'POST', '', { kind: 'remote', url, token, ca }));
  }

  async stop(id: string): Promise<void> {
    const answer = await this.transport.ask(id, 'DELETE', '');
    if (answer.status !== 204) {
      read(z.unknown(), answer);
    }
  }
}
