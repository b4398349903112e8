/** Shapes that pass between the requests (s3-client.ts) and what is made of them. */
import type { ObjectInfo } from './store.ts';

export interface Condition {
  ifMatch?: string;
  ifNoneMatch?: '*';
}

export interface S3Object extends ObjectInfo {
  /** As it was put, keys without `x-amz-meta-`. */
  metadata: Record<string, string>;
}

export interface S3Bytes extends S3Object {
  bytes: Buffer;
  /** SHA-256 of `bytes`, hex; '' for a range. */
  sha256: string;
}

export interface S3Page {
  objects: ObjectInfo[];
  /** Where the next page begins; null behind the last one. */
  next: string | null;
}

export interface UploadedPart {
  PartNumber: number;
  ETag: string;
  ChecksumSHA256?: string;
}

/** Bytes to send, with their SHA-256. */
export interface S3Body {
  parts: readonly Uint8Array[];
  sizeBytes: number;
  sha256: Buffer;
}

/** An upload in parts that was begun and not ended. */
export interface S3Upload {
  key: string;
  id: string;
  begunMs: number;
}

/** Of a key, newest first. */
export interface S3Version {
  key: string;
  id: string;
  isCurrent: boolean;
  /** It says that the object was deleted. */
  isMark: boolean;
  /** Of its content; '' of a mark. */
  etag: string;
  modifiedMs: number;
}
