/** Requests and events through Jupyter Server: its address, its sign-in, its XSRF cookie. */
import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';
import { Answer, Following, Listener, Transport } from './api';
import { PanelError } from './faults';

const RETRY_MS = [250, 500, 1000, 2000, 5000];
const ALIVE_MS = 5000;

export class JupyterTransport implements Transport {
  constructor(private readonly settings: ServerConnection.ISettings) {}

  async ask(network: string | null, method: string, path: string, body?: unknown): Promise<Answer> {
    const parts = ['rios', 'networks', ...(network === null ? [] : [network])];
    const url = URLExt.join(this.settings.baseUrl, ...parts) + (path ? `/${path}` : '');
    const init: RequestInit = { method, ...(body === undefined ? {} : { body: JSON.stringify(body) }) };
    let response: Response;
    try {
      response = await ServerConnection.makeRequest(url, init, this.settings);
    } catch (error) {
      throw new PanelError('outage', 'ServerLost', error instanceof Error ? error.message : String(error));
    }
    const text = await response.text();
    let found: unknown = null;
    try {
      found = text ? JSON.parse(text) : null;
    } catch {
      found = null; // not of rios: the status says what there is to say
    }
    return { status: response.status, body: found };
  }

  file(network: string, query: string): string {
    return `${URLExt.join(this.settings.baseUrl, 'rios', 'networks', network, 'file')}?${query}`;
  }

  follow(listener: Listener): Following {
    return new Socket(this.settings, listener);
  }
}

/** One WebSocket that is opened again whenever it breaks. */
class Socket implements Following {
  private socket: WebSocket | null = null;
  private tries = 0;
  private closed = false;
  private looking = false;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private readonly beat: ReturnType<typeof setInterval>;
  private followed: { id: string | null; last: () => string | null } = { id: null, last: () => null };

  constructor(
    private readonly settings: ServerConnection.ISettings,
    private readonly listener: Listener
  ) {
    this.open();
    this.beat = setInterval(() => void this.look(), ALIVE_MS);
    document.addEventListener('visibilitychange', this.look);
  }

  network(id: string | null, last: () => string | null): void {
    this.followed = { id, last };
    this.say();
  }

  end(): void {
    this.closed = true;
    clearTimeout(this.timer);
    clearInterval(this.beat);
    document.removeEventListener('visibilitychange', this.look);
    this.socket?.close();
  }

  /** A socket stays open when its user signs out elsewhere in the browser: requests show that, and do not count as use. */
  private look = async (): Promise<void> => {
    if (this.socket?.readyState !== WebSocket.OPEN) {
      return;
    }
    if (!document.hidden && !this.looking) {
      this.looking = true;
      const signedOut = await this.signedOut();
      this.looking = false;
      if (signedOut && !this.closed) {
        this.listener.away(true);
        this.socket?.close();
        return;
      }
    }
    if (this.socket?.readyState === WebSocket.OPEN) {
      this.listener.alive();
    }
  };

  private async signedOut(): Promise<boolean> {
    const url = URLExt.join(this.settings.baseUrl, 'rios', 'networks') + '?no_track_activity=1';
    const ask = (redirect: RequestRedirect) => ServerConnection.makeRequest(url, { redirect }, this.settings);
    try {
      const { redirected, status } = await ask('follow');
      // Where the server has ended, its hub leads to itself: its page to sign in, or for somebody else, that there is
      // nothing. To the same user it says 424, and 403 while the server is ending.
      return redirected ? status === 200 || status === 404 : status === 401 || status === 403;
    } catch {
      // Nobody answers; or what lets people in is elsewhere, where this page may not follow.
      return ask('manual').then(answer => answer.type === 'opaqueredirect').catch(() => false);
    }
  }

  private say(): void {
    if (this.socket?.readyState === WebSocket.OPEN) {
      const { id, last } = this.followed;
      this.socket.send(JSON.stringify({ follow: id, last: last() }));
    }
  }

  private open(): void {
    let url = URLExt.join(this.settings.wsUrl, 'rios', 'stream');
    if (this.settings.appendToken && this.settings.token) {
      url += `?token=${encodeURIComponent(this.settings.token)}`;
    }
    const socket = (this.socket = new this.settings.WebSocket(url));
    socket.onopen = () => {
      this.tries = 0;
      this.listener.alive();
      if (this.followed.id !== null) {
        this.say();
      }
    };
    socket.onmessage = message => this.take(message.data);
    socket.onclose = () => void this.broke();
  }

  private take(text: unknown): void {
    const said = JSON.parse(String(text)) as Record<string, unknown>;
    if ('networks' in said) {
      this.listener.networks(said['networks']);
    } else if ('event' in said) {
      this.listener.event(String(said['network']), said['event']);
    } else if ('lost' in said) {
      this.listener.lost(String(said['network']), said['lost']);
    }
  }

  private async broke(): Promise<void> {
    if (this.closed) {
      return;
    }
    this.socket = null;
    // A browser does not say why a socket did not open: a plain request does.
    this.listener.away(await this.signedOut());
    if (this.closed) {
      return;
    }
    this.timer = setTimeout(() => this.open(), RETRY_MS[Math.min(this.tries++, RETRY_MS.length - 1)]);
  }
}
