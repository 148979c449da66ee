/** The gateway's dashboard: the same panels, by the browser's session. */
import * as React from 'react';
import { createRoot } from 'react-dom/client';
import { Answer, Following, Listener, Transport } from './api';
import { DEFAULT_PREFS, Env, EnvProvider, useEnv, useSnapshot } from './env';
import { PanelError } from './faults';
import { PanelModel } from './model';
import { PanelName, PanelView } from './panels';
import { format } from './text';

const NETWORK = '0000000000000000';
const NETWORKS = [{ id: NETWORK, kind: 'local', address: '', kernel: 'gateway', started_at: 0, notebook: '' }];
const RETRY_MS = 2000;
const SILENT_MS = 25_000;
const SECTIONS: Array<[PanelName, string]> = [
  ['wallet', 'Wallet'],
  ['jobs', 'Jobs'],
  ['hosts', 'Workers and models']
];
const ROOT = '/dashboard/panel';

class GatewayTransport implements Transport {
  private listener: Listener | null = null;
  private stream: Stream | null = null;

  constructor(private readonly csrf: string) {}

  async ask(_network: string | null, method: 'GET' | 'POST' | 'DELETE', path: string, body?: unknown): Promise<Answer> {
    const headers = { 'Content-Type': 'application/json', 'X-Rios-CSRF': this.csrf };
    let response: Response;
    try {
      response = await fetch(`${ROOT}/${path}`, { method, headers, ...(body === undefined ? {} : { body: JSON.stringify(body) }) });
    } catch (error) {
      throw new PanelError('outage', 'GatewayLost', String(error));
    }
    if (response.status === 401) {
      this.listener?.away(true);
      this.stream?.again();
    }
    return { status: response.status, body: await response.json().catch(() => null) };
  }

  file(_network: string, query: string): string {
    return `${ROOT}/file?${query}`;
  }

  follow(listener: Listener): Following {
    this.listener = listener;
    return (this.stream = new Stream(listener));
  }
}

/** Server-sent events by fetch, begun anew wherever they break. */
class Stream implements Following {
  private stop = new AbortController();
  private closed = false;
  private last: () => string | null = () => null;

  constructor(private readonly listener: Listener) {
    setTimeout(() => listener.networks(NETWORKS));
  }

  network(_id: string | null, last: () => string | null): void {
    this.last = last;
    this.again();
  }

  again(): void {
    this.stop.abort();
    void this.run((this.stop = new AbortController()));
  }

  end(): void {
    this.closed = true;
    this.stop.abort();
  }

  private async run(stop: AbortController): Promise<void> {
    while (!this.closed && !stop.signal.aborted) {
      const status = await this.read(stop).catch(() => 0);
      if (this.closed || stop.signal.aborted) {
        return;
      }
      this.listener.away(status === 401 || status === 403);
      await new Promise(resolve => setTimeout(resolve, RETRY_MS));
    }
  }

  private async read(stop: AbortController): Promise<number> {
    const broken = new AbortController();
    stop.signal.addEventListener('abort', () => broken.abort());
    let silence = setTimeout(() => broken.abort(), SILENT_MS);
    const response = await fetch(`${ROOT}/events?last=${encodeURIComponent(this.last() ?? '')}`, { signal: broken.signal });
    if (!response.ok || response.body === null) {
      return response.status;
    }
    this.listener.networks(NETWORKS); // who signed in again begins anew
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    try {
      for (;;) {
        const { value, done } = await reader.read();
        if (done) {
          return response.status;
        }
        clearTimeout(silence);
        silence = setTimeout(() => broken.abort(), SILENT_MS);
        this.listener.alive();
        const parts = (text + value).split('\n\n');
        text = parts.pop() ?? '';
        parts.forEach(part => this.take(part));
      }
    } finally {
      clearTimeout(silence);
    }
  }

  private take(part: string): void {
    const fields = new Map(part.split('\n').map(line => [line.split(': ', 1)[0] ?? '', line.slice(line.indexOf(': ') + 2)]));
    const data = fields.get('data');
    if (data !== undefined && fields.has('id')) {
      this.listener.event(NETWORK, { id: fields.get('id'), name: fields.get('event'), data: JSON.parse(data) as unknown });
    }
  }
}

/** Whose page it is, and the way to what is the account's: its sessions, and signing out. */
function Head(): React.ReactElement {
  const { trans } = useEnv();
  const account = useSnapshot().sections.network?.data?.account;
  return (
    <header>
      <h1>rios</h1>
      {account === undefined ? null : <a href="/account">{trans.__('Account of %1', account)}</a>}
    </header>
  );
}

const main = document.getElementById('dashboard');
if (main !== null) {
  const model = new PanelModel(new GatewayTransport(main.dataset['csrf'] ?? ''));
  const trans = { __: format };
  const signIn = 'You are not signed in here any more. Reload the page to sign in again.';
  const env: Env = { model, trans, prefs: { ...DEFAULT_PREFS }, keep: () => undefined, openNotebook: null, manages: false, signIn };
  createRoot(main).render(
    <>
      <EnvProvider value={env}>
        <Head />
      </EnvProvider>
      <PanelView env={env} name="notice" />
      <div className="rios-board">
        {SECTIONS.map(([name, title]) => (
          <div key={name}>
            <h2>{title}</h2>
            <PanelView env={env} name={name} />
          </div>
        ))}
      </div>
    </>
  );
  model.start(null);
}
