/** Small shapes of S3's requests and answers, as s3-client.ts sends and reads them. */
import { S3Failure } from './s3-errors.ts';
import type { S3Place } from './s3-place.ts';
import type { Condition, S3Body, S3Version } from './s3-types.ts';

/**
 * Middleware that has the request signed over its content (Signature Version 4, "x-amz-content-sha256"), so that the service
 * verifies what arrives.
 */
export function signedContent({ sha256 }: S3Body) {
  return <A extends { request: unknown }, R>(next: (args: A) => R) =>
    (args: A): R => {
      const { headers } = args.request as { headers: Record<string, string> };
      headers['x-amz-content-sha256'] = sha256.toString('hex');
      return next(args);
    };
}

export function preconditions({ ifMatch, ifNoneMatch }: Condition) {
  return {
    ...(ifMatch === undefined ? {} : { IfMatch: ifMatch }),
    ...(ifNoneMatch === undefined ? {} : { IfNoneMatch: ifNoneMatch }),
  };
}

/** Null for "no such object"; everything else is thrown on. */
export function absent(error: unknown): null {
  if (error instanceof S3Failure && error.status === 404 && error.code !== 'NoSuchBucket') return null;
  throw error;
}

/** Of one key; the current one first, whatever the clock said. */
export function newestFirst(a: S3Version, b: S3Version): number {
  if (a.isCurrent !== b.isCurrent) return a.isCurrent ? -1 : 1;
  return b.modifiedMs - a.modifiedMs;
}

export function modifiedAt(date: Date | undefined): { modifiedMs?: number } {
  return date === undefined ? {} : { modifiedMs: date.getTime() };
}

export function required(value: string | undefined, name: string): string {
  if (value !== undefined && value !== '') return value;
  throw new S3Failure('NoHeader', 500, `an answer without ${name}`);
}

export function regionOf({ region, endpoint }: S3Place): { region?: string } {
  if (region !== null) return { region };
  return endpoint === null ? {} : { region: 'us-east-1' };
}
