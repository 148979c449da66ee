/** The extension: only wires what the other files have. */
import { ILayoutRestorer, JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, Notification } from '@jupyterlab/apputils';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStateDB } from '@jupyterlab/statedb';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { commands, IDS } from './commands';
import { DEFAULT_PREFS, Env, Prefs } from './env';
import { JupyterTransport } from './jupyter';
import { PanelModel } from './model';
import { Sidebar } from './sidebar';
import { lend } from './text';

const PLUGIN = 'rios-lab:panel';
type Notify = 'all' | 'failed' | 'never';

const plugin: JupyterFrontEndPlugin<void> = {
  id: PLUGIN,
  description: 'Wallet and jobs of a rios network in the sidebar.',
  autoStart: true,
  optional: [ICommandPalette, ILayoutRestorer, IStateDB, ISettingRegistry, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    palette: ICommandPalette | null,
    restorer: ILayoutRestorer | null,
    state: IStateDB | null,
    registry: ISettingRegistry | null,
    translator: ITranslator | null
  ): void => {
    const trans = (translator ?? nullTranslator).load('rios');
    lend(trans);
    const prefs: Prefs = { ...DEFAULT_PREFS };
    const model = new PanelModel(new JupyterTransport(app.serviceManager.serverSettings));
    const keep = (change: Partial<Prefs>) => {
      Object.assign(prefs, change);
      void state?.save(PLUGIN, { ...prefs });
    };
    model.onChosen(network => keep({ network }));
    const openNotebook = (path: string) => void app.commands.execute('docmanager:open', { path });
    const signIn = trans.__('You are not signed in here any more. Sign in again, then reload the page.');
    const env: Env = { model, trans, prefs, keep, openNotebook, manages: true, signIn };
    const sidebar = new Sidebar(env);
    app.shell.add(sidebar, 'left', { rank: 650, type: 'rios' });
    restorer?.add(sidebar, sidebar.id);
    commands(app, env, sidebar);
    if (palette !== null) {
      for (const command of IDS) {
        palette.addItem({ command, category: 'rios' });
      }
    }
    // Lab restores its state after all plugins are active, so none may wait for it.
    const begun = (kept: unknown) => {
      Object.assign(prefs, kept);
      model.start(prefs.network);
    };
    void (state === null ? Promise.resolve(undefined) : state.fetch(PLUGIN)).then(begun, () => begun(undefined));
    let notify: Notify = 'all';
    void registry?.load(PLUGIN).then(settings => {
      const read = () => {
        notify = settings.get('notify').composite as Notify;
      };
      settings.changed.connect(read);
      read();
    });
    model.onEnded(job => {
      if (notify === 'all' && job.state === 'done') {
        const generation = job.kind === 'generation';
        Notification.success(
          generation ? trans.__('%1 is done: %2 tokens.', job.name, job.tokens) : trans.__('%1 has ended.', job.name)
        );
      } else if (notify !== 'never' && (job.state === 'failed' || job.state === 'lost')) {
        Notification.error(trans.__('%1 failed: %2', job.name, job.error || trans.__('no reason was given')), {
          autoClose: false,
          actions: [{ label: trans.__('Show'), callback: () => void app.commands.execute('rios:jobs') }]
        });
      }
    });
  }
};

export default plugin;
