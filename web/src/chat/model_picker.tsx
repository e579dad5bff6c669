/** Which model answers. */

import { Icon } from "../shared/icons.tsx";
import { useSession } from "./context.ts";

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
        {models?.map(({ id, status }) => (
          <option key={id} value={id}>
            {id}
            {status?.value === "loaded" ? "  ·  loaded" : ""}
          </option>
        ))}
      </select>
      <Icon name="down" size={14} />
    </label>
  );
}
