/** `app.widget()`: the panel's view of a deployment, told over the kernel's channel. */
import * as React from 'react';
import * as shapes from './shapes';
import { format } from './text';
import { useChanged, WidgetModel } from './traits';
import { Deeds, Facts, Lines } from './work';

const NAMES = ['app', 'lines', 'problem'];
const trans = { __: format };

export function DeploymentView(props: { model: WidgetModel }): React.ReactElement {
  const { model } = props;
  useChanged(model, NAMES);
  const read = shapes.Job.safeParse(model.get('app'));
  const problem = shapes.Problem.safeParse(model.get('problem'));
  const lines = shapes.LogLines.safeParse(model.get('lines'));
  return (
    <div className="rios-widget rios-panel rios-deployment">
      {problem.success ? (
        <p className="rios-notice rios-outage" role="alert">
          {problem.data.detail}
        </p>
      ) : null}
      {read.success ? (
        <>
          <h3>{read.data.name}</h3>
          {read.data.error ? <p className="rios-notice rios-outage">{read.data.error}</p> : null}
          <Facts job={read.data} trans={trans} />
          <Deeds job={read.data} trans={trans} disabled={false} onDeed={(deed, replicas) => model.send({ do: deed, replicas })} />
        </>
      ) : null}
      <Lines lines={lines.success ? lines.data : []} trans={trans} />
    </div>
  );
}
