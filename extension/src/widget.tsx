/** What a notebook's widgets show: the same views, asked and told over the kernel's channel (anywidget). */
import * as React from 'react';
import { createRoot } from 'react-dom/client';
import { Answer, Following, Listener, Transport } from './api';
import { DEFAULT_PREFS, Env } from './env';
import { DeploymentView } from './deployment';
import { PanelError } from './faults';
import { GenerationView } from './generation';
import { PanelModel } from './model';
import { PanelName, PanelView } from './panels';
import { texts } from './text';
import { tell, WidgetModel } from './traits';

const ANSWER_MS = 60_000;
/** A deed may wait for the chain; it goes on in the kernel however long that takes. */
const DEED_MS = 600_000;
const SILENT_MS = 12_000;
const NETWORK = '0000000000000000';

class KernelTransport implements Transport {
  private asked = 0;
  private readonly waiting = new Map<number, (answer: Answer) => void>();
  private listener: Listener | null = null;
  private heardAt = Date.now();
  private readonly beat: ReturnType<typeof setInterval>;

  constructor(private readonly model: WidgetModel) {
    model.on('msg:custom', this.heard);
    this.beat = setInterval(() => {
      if (Date.now() - this.heardAt > SILENT_MS) {
        this.listener?.away(false);
        this.again();
      }
    }, 4000);
  }

  ask(_network: string | null, method: 'GET' | 'POST' | 'DELETE', path: string, body?: unknown): Promise<Answer> {
    const [what = '', query = ''] = path.split('?');
    const given = method === 'GET' ? Object.fromEntries(new URLSearchParams(query)) : body;
    const id = ++this.asked;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, resolve);
      setTimeout(
        () => {
          if (this.waiting.delete(id)) {
            reject(new PanelError('outage', 'here:kernel', ''));
          }
        },
        method === 'GET' ? ANSWER_MS : DEED_MS
      );
      this.model.send({ id, ask: { method, what, given } });
    });
  }

  file(): null {
    return null; // the kernel's channel has no addresses
  }

  follow(listener: Listener): Following {
    this.listener = listener;
    const networks = [{ id: NETWORK, kind: 'local', address: '', kernel: 'this', started_at: 0, notebook: '' }];
    setTimeout(() => listener.networks(networks));
    return {
      network: (_id, last) => {
        this.last = last;
        this.again();
      },
      end: () => this.end()
    };
  }

  private last: () => string | null = () => null;

  private again(): void {
    this.model.send({ follow: this.last() });
  }

  private end(): void {
    clearInterval(this.beat);
    this.listener = null;
    this.model.off('msg:custom', this.heard);
    tell(this.model, { follow: false });
  }

  private readonly heard = (said: Record<string, unknown>): void => {
    this.heardAt = Date.now();
    if (typeof said['answer'] === 'number') {
      const resolve = this.waiting.get(said['answer']);
      this.waiting.delete(said['answer']);
      resolve?.({ status: Number(said['status']), body: said['body'] });
    } else if (said['ended'] === true) {
      this.again(); // another view of the same widget went
    } else if ('lost' in said) {
      this.listener?.lost(NETWORK, said['lost']);
    } else if (Array.isArray(said['events'])) {
      this.listener?.alive();
      for (const event of said['events']) {
        this.listener?.event(NETWORK, event);
      }
    }
  };
}

function panels(view: string): PanelName[] {
  return view === 'wallet' || view === 'jobs' || view === 'hosts' ? [view] : ['wallet', 'jobs', 'hosts'];
}

function renderPanel(model: WidgetModel, el: HTMLElement): () => void {
  const state = new PanelModel(new KernelTransport(model));
  const env: Env = {
    model: state,
    trans: texts,
    prefs: { ...DEFAULT_PREFS },
    keep: () => undefined,
    openNotebook: null,
    manages: false,
    signIn: ''
  };
  const view = (
    <div className="rios-widget">
      <PanelView env={env} name="notice" />
      <div className="rios-columns">
        {panels(String(model.get('view'))).map(name => (
          <PanelView key={name} env={env} name={name} />
        ))}
      </div>
    </div>
  );
  state.start(null);
  return rendered(el, view, () => state.close());
}

/**
 * Call `end` once JupyterLab has drawn an output anew, as when its saved copy changes: then it takes the old view from
 * the page without a word. Cells out of sight are taken from the page too, but whole.
 */
function onceDropped(el: HTMLElement, end: () => void): () => void {
  const inOutput = () => el.closest('.jp-OutputArea') !== null;
  let shown = false;
  const observer = new ResizeObserver(() => {
    if (shown && !el.isConnected && !inOutput()) {
      end();
    }
    shown ||= inOutput();
  });
  observer.observe(el);
  return () => observer.disconnect();
}

function rendered(el: HTMLElement, view: React.ReactElement, close: () => void = () => undefined): () => void {
  const root = createRoot(el);
  let ended = false;
  const end = () => {
    if (!ended) {
      ended = true;
      unwatch();
      close();
      root.unmount();
    }
  };
  const unwatch = onceDropped(el, end);
  root.render(view);
  return end;
}

export default {
  render({ model, el }: { model: WidgetModel; el: HTMLElement }): () => void {
    if (model.get('app') !== undefined) {
      return rendered(el, <DeploymentView model={model} />);
    }
    return model.get('model_name') === undefined ? renderPanel(model, el) : rendered(el, <GenerationView model={model} />);
  }
};
