import { bytes, quantity } from '../../src/cli/format.ts';
import { byId, element } from './dom.ts';
import { DEVICE_NAMES, type Device, type Model } from './engine.ts';
import { showMachine, threadsLine } from './machine.ts';

/** What the models that are in use are, and what they run on: the same file on each device. */
export function showModels(used: readonly { readonly device: Device; readonly model: Model }[]): void {
  const [{ model }] = used;
  const { info } = model;
  showMachine(info.threads);
  byId('model-name', HTMLHeadingElement).textContent = info.name;
  byId('model-line', HTMLParagraphElement).replaceChildren(
    ...[
      `${quantity(info.parameters)} weights`,
      info.weights.file,
      bytes(info.fileBytes),
      ...used.map((one) => one.model.info.backend),
    ].map((part) => element('span', '', part)),
  );
  const rows: [string, string][] = [
    ['Architecture', info.architecture],
    ['Layers', `${info.layers}, ${info.dim} wide`],
    ['Vocabulary', `${info.vocab} tokens`],
    ['Context', `${info.contextSize} tokens`],
    ['Chat template', { file: 'of the file', bitnet: 'of BitNet b1.58', plain: 'none' }[info.chatTemplate]],
    ...used.flatMap((one): [string, string][] => [
      [DEVICE_NAMES[one.device], one.model.info.backend],
      ['Memory', bytes(one.model.info.memoryBytes)],
    ]),
  ];
  byId('facts', HTMLDListElement).replaceChildren(
    ...rows.flatMap(([label, text]) => [element('dt', '', label), element('dd', '', text)]),
  );
  // Where there are no threads, the library says why.
  const threads = crossOriginIsolated ? [threadsLine()] : [];
  const warnings = new Set([...threads, ...used.flatMap((one) => one.model.info.warnings)]);
  byId('notes', HTMLUListElement).replaceChildren(...[...warnings].map((text) => element('li', '', text)));
  byId('notes', HTMLUListElement).hidden = false;
}
