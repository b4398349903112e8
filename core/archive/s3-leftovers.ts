/** What a bucket keeps beside the objects: found and deleted by requests of their own, for which most credentials have no rights. */
import { QazynaError } from '../errors/error.ts';
import { isKey } from './key.ts';
import { isReplacedKey } from './layout.ts';
import type { Leftovers, SweptVersions, VersionRules } from './leftovers.ts';
import { S3Calls } from './s3-calls.ts';
import { S3Requests } from './s3-client.ts';
import { S3Failure } from './s3-errors.ts';
import { parseS3Place } from './s3-place.ts';
import type { S3Version } from './s3-types.ts';

const deletesAtOnce = 8;
/** A lock may have ended since, and S3 lets clocks differ by so much. */
const lockMarginMs = 15 * 60_000;
/** Named in a report; more are counted. */
const overwrittenMax = 100;

export async function openS3Leftovers(url: URL, warn: (sentence: string) => void): Promise<S3Leftovers> {
  return new S3Leftovers(new S3Calls(await S3Requests.open({ place: parseS3Place(url), warn })));
}

export class S3Leftovers implements Leftovers {
  readonly #calls: S3Calls;

  constructor(calls: S3Calls) {
    this.#calls = calls;
  }

  async abortUploads(beforeMs: number, signal: AbortSignal): Promise<number> {
    const { requests } = this.#calls;
    let aborted = 0;
    let from: { key: string; id: string } | null = null;
    do {
      signal.throwIfAborted();
      const page: Awaited<ReturnType<S3Requests['uploads']>> = await this.#calls.run(
        's3:ListBucketMultipartUploads',
        '',
        () => requests.uploads(from),
      );
      for (const { key, id, begunMs } of page.uploads) {
        if (begunMs >= beforeMs || !isKey(key)) continue;
        await this.#calls.run('s3:AbortMultipartUpload', key, () => requests.abortUpload(key, id)).catch(ifGone);
        aborted += 1;
      }
      from = page.next;
    } while (from !== null);
    return aborted;
  }

  async sweepVersions(rules: VersionRules, signal: AbortSignal): Promise<SweptVersions | null> {
    if (!(await this.#keepsVersions())) return null;
    const swept = { deleted: 0, locked: 0, overwritten: new Set<string>() };
    const waiting = new Set<Promise<void>>();
    for await (const versions of this.#byKey(signal)) {
      const { due, overwritten } = dueVersions(versions, rules);
      if (overwritten && swept.overwritten.size < overwrittenMax) swept.overwritten.add(versions[0]?.key ?? '');
      while (waiting.size >= deletesAtOnce) await Promise.race(waiting);
      const removing = this.#removeAll(due, swept).finally(() => waiting.delete(removing));
      removing.catch(() => undefined);
      waiting.add(removing);
    }
    await Promise.all(waiting);
    signal.throwIfAborted();
    return { ...swept, overwritten: [...swept.overwritten] };
  }

  async #keepsVersions(): Promise<boolean> {
    try {
      return await this.#calls.run('s3:GetBucketVersioning', '', () => this.#calls.requests.isVersioned());
    } catch (error) {
      // Whoever may not ask finds out by the list.
      if (error instanceof QazynaError && ['QZ2417', 'QZ2422'].includes(error.code)) return true;
      throw error;
    }
  }

  /** All versions of one key after the other. */
  async *#byKey(signal: AbortSignal): AsyncGenerator<S3Version[]> {
    let versions: S3Version[] = [];
    let from: { key: string; id: string } | null = null;
    do {
      signal.throwIfAborted();
      const page: Awaited<ReturnType<S3Requests['versions']>> = await this.#calls.run('s3:ListBucketVersions', '', () =>
        this.#calls.requests.versions(from),
      );
      for (const version of page.versions) {
        if (!isKey(version.key)) continue;
        if (versions.length > 0 && versions[0]?.key !== version.key) {
          yield versions;
          versions = [];
        }
        versions.push(version);
      }
      from = page.next;
    } while (from !== null);
    if (versions.length > 0) yield versions;
  }

  /** Oldest first; a mark of deletion goes last, when nothing is left that it hides. */
  async #removeAll(due: readonly S3Version[], swept: { deleted: number; locked: number }): Promise<void> {
    let isLocked = false;
    for (const { key, id, isMark, isCurrent } of due.toReversed()) {
      if (isMark && isCurrent && isLocked) return;
      const isGone = await this.#remove(key, id);
      isLocked ||= !isGone;
      if (isGone) swept.deleted += 1;
      else swept.locked += 1;
    }
  }

  /** False: it is locked. */
  async #remove(key: string, versionId: string): Promise<boolean> {
    try {
      await this.#calls.run('s3:DeleteObjectVersion', key, () => this.#calls.requests.removeVersion(key, versionId));
      return true;
    } catch (error) {
      if (error instanceof QazynaError && (isLocked(error.cause) || (await this.#hasLock(error, key, versionId))))
        return false;
      throw error;
    }
  }

  /** SeaweedFS refuses to delete what is locked in the words it has for a right that lacks: the version itself tells them apart. */
  async #hasLock({ cause }: QazynaError, key: string, versionId: string): Promise<boolean> {
    if (!(cause instanceof S3Failure) || cause.status !== 403) return false;
    try {
      return (await this.#calls.requests.lockedUntilMs(key, versionId)) > Date.now() - lockMarginMs;
    } catch (error) {
      if (error instanceof S3Failure) return false;
      throw error;
    }
  }
}

/** As AWS ("…because object protected by object lock"), versitygw and MinIO ("Object is WORM protected…") say it. */
function isLocked(cause: unknown): boolean {
  return (
    cause instanceof S3Failure &&
    [400, 403].includes(cause.status) &&
    /by object lock|WORM|is locked/i.test(cause.message)
  );
}

function ifGone(error: unknown): void {
  const isGone = error instanceof QazynaError && error.cause instanceof S3Failure && error.cause.status === 404;
  if (!isGone) throw error;
}

/** Of all versions of one key, newest first: which may go, and whether an object that is put once was put over lately. Pure. */
export function dueVersions(versions: readonly S3Version[], rules: VersionRules) {
  const due: S3Version[] = [];
  let overwritten = false;
  let gone: number | null = null;
  let isAllDue = true;
  for (const [index, version] of versions.entries()) {
    const newer = versions[index - 1];
    if (version.isMark) gone = version.modifiedMs;
    if (newer === undefined) continue;
    const isReplaced = isReplacedKey(version.key);
    const before = isReplaced ? rules.replacedBeforeMs : rules.deletedBeforeMs;
    if ((isReplaced ? newer.modifiedMs : (gone ?? newer.modifiedMs)) < before) due.push(version);
    else isAllDue = false;
    // Healed with what it was at first, it is well again.
    const isHealed = versions[0]?.etag === versions.at(-1)?.etag;
    overwritten ||= !isReplaced && gone === null && !isHealed && newer.modifiedMs >= rules.tellSinceMs;
  }
  const [current] = versions;
  const hidesNothing = current?.isMark === true && isAllDue && current.modifiedMs < rules.deletedBeforeMs;
  return { due: hidesNothing ? [current, ...due] : due, overwritten };
}
