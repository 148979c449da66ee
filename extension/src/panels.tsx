/** The views in their environment: what JupyterLab's sidebar and the gateway's dashboard show. */
import * as React from 'react';
import { Env, EnvProvider, useSnapshot } from './env';
import { HostsView } from './hosts';
import { JobsView } from './jobs';
import { Notice } from './parts';
import { Picker } from './picker';
import { WalletView } from './wallet';

export type PanelName = 'network' | 'notice' | 'wallet' | 'jobs' | 'hosts';
const VIEWS: Record<PanelName, () => React.ReactElement> = {
  network: NetworkView,
  notice: () => <div>{<Notice />}</div>,
  wallet: WalletView,
  jobs: JobsView,
  hosts: HostsView
};

function NetworkView(): React.ReactElement {
  return (
    <>
      <Picker />
      <Notice />
    </>
  );
}

export function PanelView(props: { env: Env; name: PanelName }): React.ReactElement {
  return (
    <EnvProvider value={props.env}>
      <View name={props.name} />
    </EnvProvider>
  );
}

function View(props: { name: PanelName }): React.ReactElement | null {
  const { status, network, heardAt } = useSnapshot();
  const Shown = VIEWS[props.name];
  const always = props.name === 'network' || props.name === 'notice';
  if (!always && (network === null || heardAt === null)) {
    return null;
  }
  return (
    <div className={`rios-panel rios-is-${status}`} data-network={network?.id ?? ''}>
      <Shown key={always ? '' : network?.id} />
    </div>
  );
}
