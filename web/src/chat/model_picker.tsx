/** Which model answers. */

import { Icon } from "../shared/icons.tsx";
import { useSession } from "./context.ts";
import type { Model } from "./session.ts";

export function ModelPicker() {
  const session = useSession();
  const models = session.models.value;
  const failure = session.modelsFailure.value;

  if (failure && !models) {
    return (
      <button type="button" class="button danger" onClick={() => void session.loadModels()} title={failure.message}>
        <Icon name="retry" size={16} /> No models: {failure.message}
      </button>
    );
  }
  return (
    <label class="model-picker">
      <span class="visually-hidden">Model</span>
      <select
        value={session.model.value?.id ?? ""}
        disabled={!models}
        onChange={(event) => session.chooseModel(event.currentTarget.value)}
      >
        {!models && <option value="">Loading models…</option>}
        {models?.length === 0 && <option value="">No models</option>}
        <ModelGroup title="In memory" models={models?.filter(isLoaded) ?? []} />
        <ModelGroup title="Loaded when asked" models={models?.filter((model) => !isLoaded(model)) ?? []} />
      </select>
      <Icon name="open" size={14} />
    </label>
  );
}

function ModelGroup({ title, models }: { title: string; models: readonly Model[] }) {
  if (models.length === 0) return null;
  return (
    <optgroup label={title}>
      {models.map(({ id }) => (
        <option key={id} value={id}>
          {id}
        </option>
      ))}
    </optgroup>
  );
}

function isLoaded({ status }: Model): boolean {
  return status?.value === "loaded";
}
