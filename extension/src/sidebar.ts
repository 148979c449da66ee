/** The sidebar: the network above, then wallet, jobs and hosts as sections that fold. */
import { LabIcon, ReactWidget, SidePanel } from '@jupyterlab/ui-components';
import type { AccordionPanel } from '@lumino/widgets';
import * as React from 'react';
import type { Env } from './env';
import { PanelName, PanelView } from './panels';

export const icon = new LabIcon({
  name: 'rios:icon',
  svgstr:
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" width="16"><g class="jp-icon3" fill="#616161">' +
    '<circle cx="12" cy="5" r="3"/><circle cx="5" cy="18" r="3"/><circle cx="19" cy="18" r="3"/>' +
    '<path d="M11 7 5.5 16M13 7l5.5 9M8 18h8" stroke="#616161" class="jp-icon-selectable" stroke-width="1.6" fill="none"/></g></svg>'
});

const LEAST_SHARE = 0.1;
const FIRST_SHARE = 0.5;

class View extends ReactWidget {
  constructor(
    private readonly env: Env,
    private readonly panel: PanelName,
    title: string
  ) {
    super();
    this.id = `rios-${panel}`;
    this.title.label = title;
    this.title.caption = title;
    this.addClass('rios-view');
    this.addClass(`rios-view-${panel}`);
    if (panel === 'hosts') {
      this.node.tabIndex = 0; // it scrolls, and without a model has nothing else that the keyboard could reach
    }
  }

  protected render(): React.ReactElement {
    return React.createElement(PanelView, { env: this.env, name: this.panel });
  }
}

export class Sidebar extends SidePanel {
  private readonly places: Record<string, number> = { wallet: 0, jobs: 1, hosts: 2 };

  constructor(env: Env) {
    super();
    this.header.addWidget(new View(env, 'network', ''));
    this.id = 'rios-sidebar';
    this.title.icon = icon;
    this.title.caption = env.trans.__('rios: wallet and jobs');
    this.addClass('rios-sidebar');
    this.addWidget(new View(env, 'wallet', env.trans.__('Wallet')));
    this.addWidget(new View(env, 'jobs', env.trans.__('Jobs')));
    this.addWidget(new View(env, 'hosts', env.trans.__('Workers and models')));
    this.sections.collapse(2); // two sections fit the usual height; a click or a command unfolds the third
    this.sections.expansionToggled.connect((_, place) => this.share(place));
    // React draws the header, so Lumino does not hear that its height changed, and with it what is left for the sections.
    new ResizeObserver(() => this.content.update()).observe(this.header.node);
  }

  private get sections(): AccordionPanel {
    return this.content as AccordionPanel;
  }

  /** Lumino gives a section that is unfolded for the first time what the others leave, which is nothing. */
  private share(place: number): void {
    const sizes = this.sections.relativeSizes();
    if (this.sections.widgets[place]?.isHidden === false && (sizes[place] ?? 0) < LEAST_SHARE) {
      sizes[place] = FIRST_SHARE; // they are normed to 1 together
      this.sections.setRelativeSizes(sizes);
    }
  }

  /** Unfold a section and give it the keyboard. */
  reveal(name: 'wallet' | 'jobs' | 'hosts'): void {
    const place = this.places[name] ?? 0;
    this.sections.expand(place);
    const node = this.sections.widgets[place]?.node;
    (node?.querySelector<HTMLElement>('input, button, [tabindex="0"]') ?? node)?.focus();
  }
}
