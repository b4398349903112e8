/** Consecutive objects of a chain, put as one that stands for all of them, and proved to. */
import { readSegment } from './chain.ts';
import { objectKeyOf, readCompacted, sealCompacted } from './compacted.ts';
import { compactedKey } from './layout.ts';
import { mergedHeader, rangeOfRun } from './merge.ts';
import { type DecodedHeader, damaged, sealBody } from './segment.ts';
import type { ObjectStore } from './store.ts';

/** Resolves with its header. Throws QZ3405 naming what is missing or damaged of the run, or does not stand there as it should. */
export async function putMerged(
  store: ObjectStore,
  source: string,
  run: readonly DecodedHeader[],
  signal: AbortSignal,
): Promise<DecodedHeader> {
  const bodies: Buffer[] = [];
  for (const decoded of run) {
    signal.throwIfAborted();
    if (decoded.header.kind === 'events') bodies.push(await bodyOf(store, source, decoded));
  }
  const sealed = await sealBody(bodies);
  const last = run.at(-1);
  if (last === undefined) throw new Error('nothing is merged of nothing');
  const range = rangeOfRun(run);
  const { body, decoded } = sealCompacted(mergedHeader(run, sealed), sealed.stored, range.first, last);
  const key = compactedKey(source, range.first, range.last);
  await store.putIfAbsent(key, body);
  const found = await readCompacted(store, source, range);
  // What stands there may have been made by another one, or before we were killed: then it has to say and hold the same.
  if (found === null || !isSame(found.decoded, decoded))
    throw damaged(key, `it does not hold segments ${range.first} to ${range.last} as they are`);
  return decoded;
}

async function bodyOf(store: ObjectStore, source: string, decoded: DecodedHeader): Promise<Buffer> {
  const { header, compactedFrom } = decoded;
  const found =
    compactedFrom === null
      ? await readSegment(store, source, header.sequence, decoded)
      : await readCompacted(store, source, { first: compactedFrom, last: header.sequence });
  if (found !== null) return found.raw;
  throw damaged(objectKeyOf(source, decoded), 'it is missing');
}

/** The same segments; how well the body was compressed does not matter. */
function isSame(one: DecodedHeader, other: DecodedHeader): boolean {
  const { storedBytes: _, ...a } = one.header;
  const { storedBytes: __, ...b } = other.header;
  return (
    one.sha256.equals(other.sha256) &&
    one.compactedFrom === other.compactedFrom &&
    a.gtidsAdded.equals(b.gtidsAdded) &&
    a.gtidsBefore.equals(b.gtidsBefore) &&
    a.rawSha256.equals(b.rawSha256) &&
    a.sequence === b.sequence &&
    a.start === b.start &&
    a.end === b.end &&
    a.generation === b.generation
  );
}
