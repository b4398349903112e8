/** A set of GTIDs, tagged ones (MySQL ≥ 8.3) included. Mutable; `clone()` before sharing. */
export declare class GtidSet {
  /** `uuid:1-5:7,uuid:tag:1-3`, white space and order free; '' is the empty set. Throws QZ2104 on anything else. */
  static parse(text: string): GtidSet;
  /** The bytes of a Previous_gtids event body / COM_BINLOG_DUMP_GTID, both the untagged and the tagged encoding. */
  static decode(bytes: Buffer): GtidSet;
  encode(): Buffer;
  /** `key` is `uuid` or `uuid:tag`, lower case. `first`..`last` inclusive. */
  add(key: string, first: number, last?: number): void;
  addAll(other: GtidSet): void;
  has(key: string, number: number): boolean;
  containsAll(other: GtidSet): boolean;
  /** A new set: this − other; this ∩ other. */
  subtract(other: GtidSet): GtidSet;
  intersect(other: GtidSet): GtidSet;
  equals(other: GtidSet): boolean;
  get isEmpty(): boolean;
  /** How many GTIDs. */
  get count(): number;
  clone(): GtidSet;
  /** Canonical: keys sorted, intervals merged, as the server prints it but without line breaks. */
  toString(): string;
}
