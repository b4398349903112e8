/** What snapshots point at. Unless all of it can be read and is there, no pack may go. */
import type { ObjectInfo, ObjectStore } from '../../core/archive/store.ts';
import { packKey } from '../../core/chunks/pack.ts';
import { integrityError, isKind, type QazynaError } from '../../core/errors/error.ts';
import { type CompleteSnapshot, readPackIds } from '../../core/snapshot/manifest.ts';

export class PackReferences {
  readonly #store: ObjectStore;
  /** By id. */
  readonly present: ReadonlyMap<string, ObjectInfo>;
  /** Ids that any snapshot points at that was looked at so far. */
  readonly #referenced = new Set<string>();
  /** What is wrong with a snapshot; null: nothing. */
  readonly #outcomes = new Map<string, QazynaError | null>();

  private constructor(store: ObjectStore, present: ReadonlyMap<string, ObjectInfo>) {
    this.#store = store;
    this.present = present;
  }

  static async read(store: ObjectStore, signal: AbortSignal): Promise<PackReferences> {
    const present = new Map<string, ObjectInfo>();
    for await (const info of store.list('packs/', { signal }))
      present.set(info.key.slice(info.key.lastIndexOf('/') + 1), info);
    signal.throwIfAborted();
    return new PackReferences(store, present);
  }

  /** Whether the manifest can be read and every pack that it names is there. */
  async isSound(snapshot: CompleteSnapshot): Promise<boolean> {
    return (await this.#look(snapshot)) === null;
  }

  /** At least all that these point at. Throws QZ3444, QZ3506 or QZ3507 for one of which that cannot be said. */
  async of(snapshots: readonly CompleteSnapshot[], signal: AbortSignal): Promise<ReadonlySet<string>> {
    for (const snapshot of snapshots) {
      signal.throwIfAborted();
      const problem = await this.#look(snapshot);
      if (problem !== null) throw problem;
    }
    return this.#referenced;
  }

  async #look(snapshot: CompleteSnapshot): Promise<QazynaError | null> {
    const known = this.#outcomes.get(snapshot.id);
    if (known !== undefined) return known;
    const problem = await this.#read(snapshot).catch((error: unknown) => {
      if (isKind(error, 'integrity')) return error;
      throw error;
    });
    this.#outcomes.set(snapshot.id, problem);
    return problem;
  }

  async #read(snapshot: CompleteSnapshot): Promise<null> {
    for (const id of await readPackIds(this.#store, snapshot)) {
      // A listing may be stale.
      if (!this.present.has(id) && (await this.#store.head(packKey(id))) === null) throw this.#missing(snapshot, id);
      this.#referenced.add(id);
    }
    return null;
  }

  #missing({ id }: CompleteSnapshot, pack: string) {
    return integrityError(
      'QZ3444',
      `Snapshot ${id} in ${this.#store.url} needs pack ${packKey(pack)}, which is not there.`,
      'No pack is deleted while it is so. Another archive may have what is missing here.',
      { details: { snapshot: id, object: packKey(pack) } },
    );
  }
}
