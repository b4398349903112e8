/** Where everything stands in an archive. Numbers have 20 digits, so that keys sort as numbers do. */
import { serviceKinds } from '../config/service-keys.ts';
import type { ServiceId, ServiceKind } from '../config/services.ts';

export const archiveKey = 'archive.json';
/** Where an encrypted archive keeps its secret, once under each of its keys. */
export const keyRecordsPrefix = 'keys/';

export function keyRecordKey(keyId: string): string {
  return `${keyRecordsPrefix}${keyId}`;
}

/** Objects that stay as they are in an encrypted archive: ids, numbers and times, by which it is found and its end is known. */
export function isPlainKey(key: string): boolean {
  return key === archiveKey || /^sources\/[^/]+\/(tip\.json|floor|begin)$/.test(key) || key.startsWith('probe/');
}

/** Objects that are put again and again; all others are put once. */
export function isReplacedKey(key: string): boolean {
  const isOfSource = /^sources\/[^/]+\/(tip\.json|floor|begin)$/.test(key);
  return isOfSource || key === condemnedKey || key.startsWith(leasesPrefix) || key.startsWith('probe/');
}

/** Segments in one index object. */
export const indexSpan = 512;

export function chainPrefix(source: string): string {
  return `sources/${source}/chain/`;
}

export function segmentKey(source: string, sequence: number): string {
  return `${chainPrefix(source)}${digits(sequence)}`;
}

export function indexPrefix(source: string): string {
  return `sources/${source}/index/`;
}

/** Covers sequences `first` to `last`, both included. */
export function indexKey(source: string, first: number, last: number): string {
  return `${indexPrefix(source)}${digits(first)}-${digits(last)}`;
}

export function tipKey(source: string): string {
  return `sources/${source}/tip.json`;
}

/** Up to where the chain was compacted. */
export function floorKey(source: string): string {
  return `sources/${source}/floor`;
}

/** From where on the chain is kept. */
export function beginKey(source: string): string {
  return `sources/${source}/begin`;
}

/** What is going to be deleted, and since when that is known. */
export const condemnedKey = 'condemned';
/** Who needs what, until when. */
export const leasesPrefix = 'leases/';

export function compactedPrefix(source: string): string {
  return `sources/${source}/compacted/`;
}

/** Several segments in one: sequences `first` to `last`, both included. */
export function compactedKey(source: string, first: number, last: number): string {
  return `${compactedPrefix(source)}${digits(first)}-${digits(last)}`;
}

/** The number a chain key ends in, or -1 when it is no chain key. */
export function sequenceOfKey(key: string): number {
  const match = /\/chain\/(\d{20})$/.exec(key);
  const sequence = match ? Number(match[1]) : -1;
  return Number.isSafeInteger(sequence) ? sequence : -1;
}

/** The range an index key names, or null when it is no index key. */
export function rangeOfIndexKey(key: string): { first: number; last: number } | null {
  return rangeOf(/\/index\/(\d{20})-(\d{20})$/.exec(key));
}

/** The same of a key of compacted segments. */
export function rangeOfCompactedKey(key: string): { first: number; last: number } | null {
  return rangeOf(/\/compacted\/(\d{20})-(\d{20})$/.exec(key));
}

function rangeOf(match: RegExpExecArray | null): { first: number; last: number } | null {
  if (match === null) return null;
  const range = { first: Number(match[1]), last: Number(match[2]) };
  return Number.isSafeInteger(range.last) && range.first <= range.last ? range : null;
}

/**
 * The name under which a service beside the source `source` has its chain: `agama=influxdb.syslog`. No source of the
 * configuration can be called so.
 */
export function serviceChain(source: string, { kind, name }: ServiceId): string {
  return `${source}=${kind}.${name}`;
}

/** Whose chain it is: of a MySQL server (`service` null), or of a service beside it. */
export function ownerOf(chainName: string): { source: string; service: ServiceId | null } {
  const [source = '', id] = chainName.split('=', 2);
  const dot = id?.indexOf('.') ?? -1;
  const kind = serviceKinds.find((one): one is ServiceKind => one === id?.slice(0, dot));
  if (id === undefined || kind === undefined) return { source: chainName, service: null };
  return { source, service: { kind, name: id.slice(dot + 1) } };
}

function digits(number: number): string {
  return String(number).padStart(20, '0');
}
