/** What sums over the rows of tables say, taken on the source and on what was restored. */
import { isSameVersion } from '../../core/restore/versions.ts';

export type Sums = Readonly<Record<string, number | null>>;

export interface Compared {
  /** How many could be compared. */
  tables: number;
  different: string[];
  /** Other sums, but of servers that may add the same rows up differently. */
  unsure: string[];
}

/**
 * Versions as servers print them. Of one version, rows are equal when their sums are; across versions equal sums say so too, and
 * others say nothing: of equal rows 8.0.15 and 9.7.4 give other sums where a table has a generated column and a NULL behind it
 * (seen; CHECKSUM TABLE is documented to depend on the version).
 */
export function compareSums(
  counted: Sums,
  restored: Sums,
  { source, server }: { source: string; server: string },
): Compared {
  const names = Object.keys(counted);
  const unequal = names.filter((name) => restored[name] !== counted[name]);
  const isSure = isSameVersion(source, server);
  // A table that only one of them has is no matter of sums.
  const unsure = unequal.filter((name) => !isSure && restored[name] != null && counted[name] != null);
  const different = unequal.filter((name) => !unsure.includes(name));
  return { tables: names.length - unsure.length, different, unsure };
}
