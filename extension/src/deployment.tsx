/** `app.widget()`: the panel's view of a deployment, told over the kernel's channel. */
import * as React from 'react';
import { faultOf, SILENCE } from './faults';
import { Failure, Trouble } from './parts';
import * as shapes from './shapes';
import { texts as trans } from './text';
import { useChanged, useFollowed, useSilence, WidgetModel } from './traits';
import { Deeds, Facts, Lines } from './work';

const NAMES = ['app', 'lines', 'problem'];

export function DeploymentView(props: { model: WidgetModel }): React.ReactElement {
  const { model } = props;
  useChanged(model, NAMES);
  const read = shapes.Job.safeParse(model.get('app'));
  const problem = shapes.Problem.safeParse(model.get('problem'));
  const silent = useSilence(model, read.success && !['stopped', 'failed'].includes(read.data.phase));
  useFollowed(model);
  const lines = shapes.LogLines.safeParse(model.get('lines'));
  return (
    <div className="rios-widget rios-panel rios-deployment">
      <Trouble fault={silent ? SILENCE : problem.success ? faultOf(problem.data) : null} trans={trans} />
      {read.success ? (
        <>
          <h3>{read.data.name}</h3>
          <Failure job={read.data} trans={trans} />
          <Facts job={read.data} trans={trans} />
          <Deeds job={{ ...read.data, deeds: read.data.deeds.filter(one => one !== 'duplicate') }} trans={trans} disabled={silent} onDeed={(deed, replicas) => model.send({ do: deed, replicas })} />
        </>
      ) : null}
      <Lines lines={lines.success ? lines.data : []} trans={trans} />
    </div>
  );
}
