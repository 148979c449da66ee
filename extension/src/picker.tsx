/** Which network is looked at, and how another one comes to be. */
import * as React from 'react';
import { minuteOfDay, useEnv, useSnapshot } from './env';
import { caughtFault, Fault } from './faults';
import { Modal, Trouble } from './parts';
import type { Network } from './shapes';

/** Which dialog the picker should open, from a command. */
export const pickerRequests = new EventTarget();

export function Picker(): React.ReactElement {
  const { model, trans, manages } = useEnv();
  const { networks, network, status } = useSnapshot();
  const [connecting, setConnecting] = React.useState(false);
  const [busy, setBusy] = React.useState(false);
  const [fault, setFault] = React.useState<Fault | null>(null);
  const run = async (work: () => Promise<Network | void>) => {
    setBusy(true);
    setFault(null);
    try {
      const made = await work();
      if (made) {
        model.choose(made.id);
      }
    } catch (caught) {
      setFault(caughtFault(caught));
    } finally {
      setBusy(false);
    }
  };
  const start = () => void run(() => model.allNetworks.startLocal(2));
  React.useEffect(() => {
    const opened = (event: Event) => ((event as CustomEvent<string>).detail === 'start' ? start() : setConnecting(true));
    pickerRequests.addEventListener('open', opened);
    return () => pickerRequests.removeEventListener('open', opened);
  }, []);
  const nameOf = (one: Network) =>
    one.notebook || (one.kind === 'remote' ? one.address : one.kernel ? trans.__('a kernel') : trans.__('this server'));
  const stoppable = network !== null && network.kernel === null;
  return (
    <div className="rios-picker">
      {networks.length > 0 ? (
        <div className="rios-buttons">
          <select
            aria-label={trans.__('Network')}
            value={network?.id ?? ''}
            onChange={event => model.choose(event.target.value)}
          >
            {networks.map(one => (
              <option key={one.id} value={one.id} title={one.address}>
                {nameOf(one)} · {minuteOfDay(one.started_at)}
              </option>
            ))}
          </select>
          <button className="rios-button" onClick={() => model.refresh()} aria-label={trans.__('Read everything anew')}>
            ↻
          </button>
          {manages && stoppable ? (
            <button className="rios-button" disabled={busy} onClick={() => void run(() => model.allNetworks.stop(network.id))}>
              {trans.__('End')}
            </button>
          ) : null}
        </div>
      ) : null}
      {status === 'none' ? (
        <div className="rios-empty">
          <p>{trans.__('No network yet. One that a notebook makes with rios.local() or rios.connect() shows here by itself.')}</p>
        </div>
      ) : null}
      {manages && (status === 'none' || networks.length > 0) ? (
        <div className="rios-buttons">
          {status === 'none' || !networks.some(one => one.kernel === null && one.kind === 'local') ? (
            <button className="rios-button" disabled={busy} onClick={start}>
              {busy ? trans.__('Starting …') : trans.__('Start one here')}
            </button>
          ) : null}
          <button className="rios-button" disabled={busy} onClick={() => setConnecting(true)}>
            {trans.__('Connect')}
          </button>
        </div>
      ) : null}
      <Trouble fault={fault} trans={trans} />
      {connecting ? <ConnectDialog onClose={() => setConnecting(false)} onConnect={work => void run(work)} /> : null}
    </div>
  );
}

function ConnectDialog(props: {
  onClose: () => void;
  onConnect: (work: () => Promise<Network>) => void;
}): React.ReactElement {
  const { model, trans } = useEnv();
  const [url, setUrl] = React.useState('https://');
  const [token, setToken] = React.useState('');
  const [ca, setCa] = React.useState('');
  const ids = [React.useId(), React.useId(), React.useId()];
  return (
    <Modal title={trans.__('Connect to a network')} onClose={props.onClose}>
      <form
        onSubmit={event => {
          event.preventDefault();
          props.onConnect(() => model.allNetworks.connect(url.trim(), token, ca.trim()));
          props.onClose();
        }}
      >
        <label htmlFor={ids[0]}>{trans.__('Address of its gateway')}</label>
        <input id={ids[0]} autoFocus type="url" required value={url} onChange={event => setUrl(event.target.value)} />
        <label htmlFor={ids[1]}>{trans.__('Token; empty for the one that the server has in RIOS_TOKEN')}</label>
        <input
          id={ids[1]}
          type="password"
          autoComplete="off"
          value={token}
          onChange={event => setToken(event.target.value)}
        />
        <label htmlFor={ids[2]}>{trans.__('Certificate of its CA, a file on the server; empty for a known one')}</label>
        <input id={ids[2]} autoComplete="off" spellCheck={false} value={ca} onChange={event => setCa(event.target.value)} />
        <p>{trans.__('The token goes to the Jupyter server once. It is kept in the memory of one process there.')}</p>
        <footer>
          <button type="button" className="rios-button" onClick={props.onClose}>
            {trans.__('Cancel')}
          </button>
          <button type="submit" className="rios-button rios-primary">
            {trans.__('Connect')}
          </button>
        </footer>
      </form>
    </Modal>
  );
}
