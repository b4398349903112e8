/** Where what stands in a snapshot of a Grafana. FORMAT.md ("Snapshot of a Grafana") is the authority. */
import { z } from 'zod';
import { integrityError } from '../errors/error.ts';
import type { SnapshotManifest } from '../snapshot/types.ts';
import { metaSchema } from './frames.ts';
import { canonical, isObject, parseJson } from './json.ts';
import { contentBytes, inOrder, sha256Of } from './objects.ts';
import { bodyOf, GrafanaState, type KeptObject } from './state.ts';

/** A frame's body and meta fit. */
const lineMaxBytes = 64 * 1024 * 1024;
const newline = 0x0a;

const organizationsSchema = z.array(
  z.object({ org: z.number().int().min(0), name: z.string(), serverVersion: z.string() }),
);

/** Objects of one organization and type, in the order of their uids; a line each. */
export interface SnapshotFileOf {
  /** `<org>/<type>.jsonl`. */
  path: string;
  objects: KeptObject[];
}

export function filesOf(state: GrafanaState): SnapshotFileOf[] {
  const files = new Map<string, KeptObject[]>();
  for (const kept of [...state.objects.values()].sort((a, b) => inOrder(a.meta, b.meta))) {
    const path = `${kept.meta.org}/${kept.meta.type}.jsonl`;
    const objects = files.get(path) ?? [];
    objects.push(kept);
    files.set(path, objects);
  }
  return [...files].map(([path, objects]) => ({ path, objects }));
}

/** Readable by anybody: what is known of the object, and its content. */
export function objectLine(kept: KeptObject): Buffer {
  const content = parseJson(bodyOf(kept).toString('utf8'));
  return Buffer.from(`${canonical({ ...kept.meta, content })}\n`, 'utf8');
}

export function stateSettings(state: GrafanaState): Record<string, string> {
  return { organizations: JSON.stringify([...state.organizations.values()]) };
}

/** A state that is to be filled by `readObjects` with each file. Throws QZ3950. */
export function emptyStateOf({ id, settings }: Pick<SnapshotManifest, 'id' | 'settings'>): GrafanaState {
  const state = new GrafanaState();
  try {
    const organizations = organizationsSchema.parse(JSON.parse(settings.organizations ?? ''));
    for (const one of organizations) state.organizations.set(one.org, one);
    return state;
  } catch (error) {
    throw unreadable(id, 'its organizations', error);
  }
}

/** The objects of one file, whose bytes come in any pieces. Throws QZ3950. */
export async function readObjects(
  state: GrafanaState,
  id: string,
  path: string,
  pieces: AsyncIterable<Buffer>,
): Promise<void> {
  let rest: Buffer = Buffer.alloc(0);
  for await (const piece of pieces) {
    rest = Buffer.concat([rest, piece]);
    if (rest.length > lineMaxBytes) throw unreadable(id, path, new Error('a line is too long'));
    let at = 0;
    for (let end = rest.indexOf(newline); end >= 0; end = rest.indexOf(newline, at)) {
      readLine(state, id, path, rest.subarray(at, end));
      at = end + 1;
    }
    rest = Buffer.from(rest.subarray(at));
  }
  if (rest.length > 0) throw unreadable(id, path, new Error('its last line has no end'));
}

function readLine(state: GrafanaState, id: string, path: string, line: Buffer): void {
  try {
    const object = parseJson(line.toString('utf8'));
    if (!isObject(object) || object.content === undefined) throw new Error('no content');
    const meta = metaSchema.parse(object);
    const body = contentBytes(object.content);
    state.put(meta, sha256Of(body), body);
  } catch (error) {
    throw unreadable(id, path, error);
  }
}

function unreadable(id: string, what: string, cause: unknown) {
  return integrityError(
    'QZ3950',
    `Snapshot ${id} of a Grafana cannot be read: ${what} is not as it should be.`,
    'Use another snapshot (an earlier --to) or another archive (--from).',
    { cause },
  );
}
