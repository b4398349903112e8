/**
 * The ancestry of the newest timeline as binlog files that grow: what replicas are served. The rules are those of
 * core/history/path.ts, applied as history comes: a fork cuts its ancestor at the fork set, and where a timeline begins with
 * transactions that nobody captured, what came before cannot lead to it.
 */
import { firstSequence } from '../archive/segment.ts';
import type { GtidSet } from '../binlog/gtid-set.ts';
import type { BinlogRange, ChainState, EntryKind } from '../chain/types.ts';
import { ServedNames } from '../history/names.ts';
import { type FilePart, keptWithin, type PathFile } from '../history/path.ts';
import type { Timeline } from '../history/timelines.ts';
import type { StreamFile } from '../stream/types.ts';
import { LiveFile } from './live-file.ts';

/** What an entry of the log and a segment of an archive have in common. */
export interface Step extends BinlogRange {
  kind: EntryKind;
  generation: number;
  gtidsBefore: GtidSet | null;
}

export class LivePath {
  #files: LiveFile[] = [];
  readonly #names = new ServedNames();
  #isForking = false;
  readonly #within: (file: LiveFile, limit: GtidSet) => Promise<FilePart>;

  /** `within`: the longest prefix of a file whose GTIDs are all in `limit`. */
  constructor(within: (file: LiveFile, limit: GtidSet) => Promise<FilePart>) {
    this.#within = within;
  }

  /** Oldest first. */
  get files(): readonly LiveFile[] {
    return this.#files;
  }

  find(name: string): LiveFile | undefined {
    return this.#files.find((file) => file.name === name);
  }

  /** As replicas are told of them. */
  served(): StreamFile[] {
    return this.#files.map(({ name, gtidsBefore, gtidsAfter, isComplete, serverIds }) => ({
      name,
      gtidsBefore,
      gtidsAfter: isComplete ? gtidsAfter : null,
      ...(serverIds === null ? {} : { serverIds }),
    }));
  }

  /** As LiveSource says. */
  neededFrom(executed: GtidSet): number {
    const file = this.#files.findLast(({ gtidsBefore }) => executed.containsAll(gtidsBefore));
    if (file === undefined) return 0;
    const segment = file.segments[0];
    return segment === undefined ? Number.POSITIVE_INFINITY : firstSequence(segment);
  }

  /**
   * The file that the step's bytes belong to; null when it has none, or begins where nothing is known. At once: nobody may see
   * that a file has grown before it is known where its bytes are.
   */
  take(step: Step, after: ChainState): LiveFile | null {
    if (step.kind !== 'events') return null;
    if (step.start === 4) this.#begin(step);
    const file = this.#files.at(-1);
    if (file === undefined || file.isComplete || file.file !== step.file) return null;
    file.grow(step, after.gtids);
    return file;
  }

  /**
   * What an archive holds of it by now. Where the archive is ahead (`end` is not null: its last range), the path ends where
   * the archive does.
   */
  adopt(
    archived: readonly PathFile[],
    timelines: readonly Timeline[],
    ahead: { range: BinlogRange | null } | null,
  ): void {
    this.#names.learn(timelines);
    const known = new Map(this.#files.map((file) => [keyOf(file), file]));
    const files: LiveFile[] = [];
    for (const [index, found] of archived.entries()) {
      const file = known.get(keyOf(found)) ?? (ahead === null ? null : this.#made(found));
      if (file === null) continue;
      file.archived(found.segments);
      files.push(file);
      if (ahead === null) continue;
      file.cutAt(found.end, found.gtidsAfter);
      const isOpen = index === archived.length - 1 && ahead.range?.file === found.file;
      file.isComplete = !isOpen;
      if (isOpen) file.end = file.archivedEnd;
    }
    if (ahead !== null) this.#replace(files);
    else if (!this.#isForking) this.#dropFront(files);
  }

  #made({ generation, file, gtidsBefore }: PathFile): LiveFile {
    return new LiveFile({ name: this.#names.nameOf(generation, file), generation, file, gtidsBefore });
  }

  /** The archive keeps only what begins at `kept`; what it never held stays. */
  #dropFront(kept: readonly LiveFile[]): void {
    const [first] = kept;
    const from = first === undefined ? 0 : this.#files.indexOf(first);
    this.#replace(this.#files.slice(from));
  }

  #replace(files: LiveFile[]): void {
    for (const file of this.#files) if (!files.includes(file)) file.isGone = true;
    this.#files = files;
  }

  #begin(step: Step): void {
    const last = this.#files.at(-1);
    last?.complete();
    const gtidsBefore = step.gtidsBefore ?? last?.gtidsAfter;
    if (gtidsBefore === undefined) return;
    if (last !== undefined && !last.gtidsAfter.containsAll(gtidsBefore)) this.#replace([]);
    const { generation, file } = step;
    const name = this.#names.nameOf(generation, file);
    this.#files = [...this.#files, new LiveFile({ name, generation, file, gtidsBefore })];
  }

  /** Another timeline begins, of which `limit` is all that it takes over. */
  async fork(limit: GtidSet): Promise<void> {
    this.#files.at(-1)?.complete();
    this.#isForking = true;
    const { whole, part } = await keptWithin(this.#files, limit, (file) => this.#within(file, limit)).finally(() => {
      this.#isForking = false;
    });
    const cut = part === null ? undefined : this.#files[whole];
    const kept = this.#files.slice(0, whole);
    if (part !== null && cut !== undefined) {
      const gtidsAfter = (this.#files[whole - 1]?.gtidsAfter ?? cut.gtidsBefore).clone();
      gtidsAfter.addAll(part.gtidsAdded);
      cut.cutAt(part.position, gtidsAfter);
      kept.push(cut);
    }
    this.#replace(kept);
  }
}

function keyOf({ generation, file }: { generation: number; file: string }): string {
  return `${generation} ${file}`;
}
