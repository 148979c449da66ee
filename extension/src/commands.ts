/** What the palette, the menu and the keyboard can do. */
import type { JupyterFrontEnd } from '@jupyterlab/application';
import type { Action } from './deeds';
import type { Env } from './env';
import { titleOf } from './deeds';
import { pickerRequests } from './picker';
import type { Sidebar } from './sidebar';
import { icon } from './sidebar';
import { walletRequests } from './wallet';

const DEEDS: Action[] = ['deposit', 'withdraw', 'settle', 'claim', 'budget'];
export const IDS = [
  'rios:wallet',
  'rios:jobs',
  'rios:hosts',
  'rios:start',
  'rios:connect',
  'rios:refresh',
  'rios:copy-address',
  ...DEEDS.map(deed => `rios:${deed}`)
];

export function commands(app: JupyterFrontEnd, env: Env, sidebar: Sidebar): void {
  const { trans, model } = env;
  const show = (name: 'wallet' | 'jobs' | 'hosts') => {
    app.shell.activateById(sidebar.id);
    sidebar.reveal(name);
  };
  const live = () => model.snapshot.status === 'live';
  const add = (id: string, label: string, execute: () => unknown, isEnabled: () => boolean = () => true) =>
    app.commands.addCommand(id, { label, icon, execute, isEnabled, describedBy: { args: { type: 'object' } } });
  add('rios:wallet', trans.__('Show the wallet'), () => show('wallet'));
  add('rios:jobs', trans.__('Show the jobs'), () => show('jobs'));
  add('rios:hosts', trans.__('Show workers and models'), () => show('hosts'));
  const picker = (detail: string) => () => {
    app.shell.activateById(sidebar.id);
    pickerRequests.dispatchEvent(new CustomEvent('open', { detail }));
  };
  add('rios:start', trans.__('Start a network on this server'), picker('start'));
  add('rios:connect', trans.__('Connect to a network'), picker('connect'));
  add('rios:refresh', trans.__('Read everything anew'), () => model.refresh());
  const address = () => model.snapshot.sections.wallet?.data?.address ?? null;
  add(
    'rios:copy-address',
    trans.__('Copy the address of the wallet'),
    () => navigator.clipboard.writeText(address() ?? ''),
    () => address() !== null
  );
  for (const deed of DEEDS) {
    add(
      `rios:${deed}`,
      titleOf(deed, trans),
      () => {
        show('wallet');
        walletRequests.dispatchEvent(new CustomEvent('deed', { detail: deed }));
      },
      live
    );
  }
}
