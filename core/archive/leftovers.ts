/** What a store keeps beside its objects: parts of uploads that never ended, and versions of objects that are gone. */
export interface VersionRules {
  /** Versions of keys that are replaced again and again go when they were replaced before this; ms since 1970 by the store's clock. */
  replacedBeforeMs: number;
  /** All others, when their object was deleted, or put over, before this. */
  deletedBeforeMs: number;
  /** What was put over since then is told. */
  tellSinceMs: number;
}

export interface SweptVersions {
  /** Versions and marks of deletion that went. */
  deleted: number;
  /** Due, but locked until later. */
  locked: number;
  /** Keys that are put once and were put over by something else, lately: one of the two is wrong. */
  overwritten: readonly string[];
}

export interface Leftovers {
  /** Gives up uploads that were begun before this (ms since 1970 by the store's clock); resolves with how many. */
  abortUploads(beforeMs: number, signal: AbortSignal): Promise<number>;
  /** Null where the bucket keeps no versions. */
  sweepVersions(rules: VersionRules, signal: AbortSignal): Promise<SweptVersions | null>;
}
