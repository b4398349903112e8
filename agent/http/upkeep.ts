/** What is wrong with an archive that one would trust: damage, a drill that failed, and either of them that is long due. */
import { formatCount, formatDuration, formatInstant } from '../../core/progress/format.ts';
import type { ArchiveUpkeep, Attention } from './status.ts';

export interface UpkeepProblem extends Attention {
  /** Of the alarm that says the same. */
  topic: string;
}

/** Beyond twice its interval something is late. */
const graceMs = 3_600_000;

export function upkeepTopics(name: string): string[] {
  return ['damage', 'drill', 'verify-late', 'drill-late'].map((what) => `${what}:${name}`);
}

export function upkeepProblems(atMicros: number, archive: ArchiveUpkeep): UpkeepProblem[] {
  const { name, verified, drilled, createdMicros, verifyEveryMs, drillEveryMs, drilledGoodMicros } = archive;
  const isLate = (micros: number, everyMs: number) =>
    everyMs > 0 && micros > 0 && (atMicros - micros) / 1000 > 2 * everyMs + graceMs;
  const found: UpkeepProblem[] = [];
  if (verified !== null && verified.damaged > 0) {
    const one = verified.damaged === 1;
    const what = one ? '1 object is' : `${formatCount(verified.damaged)} objects are`;
    found.push({
      topic: `damage:${name}`,
      code: 'QZ4961',
      sentence: `In the archive ${name} ${what} missing or damaged: ${verified.firstFinding}${one ? '' : ', and others'}.`,
      hint: `\`qazyna verify --from ${name}\` says what can heal it, with --repair it is put right.`,
    });
  }
  if (drilled !== null && !drilled.good)
    found.push({
      topic: `drill:${name}`,
      code: 'QZ4962',
      sentence: `The last drill from the archive ${name} failed: ${drilled.problem.replace(/\.$/, '')}.`,
      hint: `See what it says by hand: \`qazyna drill --from ${name}\`; restores from another archive may be better until then.`,
    });
  if (isLate(verified?.atMicros ?? createdMicros, verifyEveryMs))
    found.push({
      topic: `verify-late:${name}`,
      code: 'QZ4963',
      sentence: `The archive ${name} was ${verified === null ? 'never verified' : `last verified at ${formatInstant(verified.atMicros)}`}, although that is due every ${formatDuration(verifyEveryMs)}.`,
      hint: 'Its shipper does that by itself: see whether one runs and what its log says; or run `qazyna verify`.',
    });
  if (isLate(drilledGoodMicros || createdMicros, drillEveryMs))
    found.push({
      topic: `drill-late:${name}`,
      code: 'QZ4964',
      sentence: `The last good drill from the archive ${name} was ${drilledGoodMicros === 0 ? 'never' : `at ${formatInstant(drilledGoodMicros)}`}, although one is due every ${formatDuration(drillEveryMs)}.`,
      hint: 'Its shipper does that by itself: see whether one runs and what its log says; or run `qazyna drill`.',
    });
  return found;
}
