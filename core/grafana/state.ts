/** All of a Grafana at one place of its journal: what the frames up to there make of it. */
import { zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import type { JournalPosition } from '../journal/source.ts';
import type { GrafanaFrame, OrganizationMeta } from './frames.ts';
import { parseJson } from './json.ts';
import { type GrafanaObject, keyText, type ObjectKey, type ObjectMeta } from './objects.ts';

/** Kept small: some hundred dashboards are some ten megabytes as text. */
export interface KeptObject {
  meta: ObjectMeta;
  sha256: string;
  packed: Buffer;
}

export class GrafanaState {
  /** By `keyText`. */
  readonly objects: Map<string, KeptObject>;
  readonly organizations: Map<number, OrganizationMeta>;
  /** Behind the last frame that is in it. */
  position: JournalPosition;

  constructor(from: Pick<GrafanaState, 'objects' | 'organizations' | 'position'> | null = null) {
    this.objects = new Map(from?.objects);
    this.organizations = new Map(from?.organizations);
    this.position = from?.position ?? { file: '', offset: 0 };
  }

  apply(frame: GrafanaFrame, end: JournalPosition): void {
    this.position = end;
    if (frame.kind === 'object') this.put(frame.meta, frame.sha256, frame.body);
    else if (frame.kind === 'deleted') this.objects.delete(keyText(frame.key));
    else if (frame.kind === 'organization') this.organizations.set(frame.meta.org, frame.meta);
  }

  put(meta: ObjectMeta, sha256: string, body: Buffer): void {
    this.objects.set(keyText(meta), { meta, sha256, packed: zstdCompressSync(body) });
  }

  get(key: ObjectKey): KeptObject | null {
    return this.objects.get(keyText(key)) ?? null;
  }
}

export function bodyOf({ packed }: Pick<KeptObject, 'packed'>): Buffer {
  return zstdDecompressSync(packed);
}

export function opened(kept: KeptObject): GrafanaObject {
  return { meta: kept.meta, content: parseJson(bodyOf(kept).toString('utf8')) };
}
