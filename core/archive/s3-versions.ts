/** Earlier versions of objects, in a bucket that keeps them: what an overwrite or a deletion has not taken away. */
import type { S3Calls } from './s3-calls.ts';
import { S3Failure } from './s3-errors.ts';
import type { S3Version } from './s3-types.ts';

/**
 * Newest first, the present one left out. Nothing where the bucket keeps no versions, the service does not know the request
 * (501), or the credentials do not allow it (ops/s3: s3:ListBucketVersions, s3:GetObjectVersion).
 */
export async function* earlierVersions(calls: S3Calls, key: string): AsyncIterable<Buffer> {
  for (const { id } of await versionsOf(calls, key)) {
    const found = await calls.run('s3:GetObjectVersion', key, () => calls.requests.get(key, undefined, id));
    if (found !== null) yield found.bytes;
  }
}

/** Of one page: a name that was put over more often is somebody's game. */
async function versionsOf(calls: S3Calls, key: string): Promise<S3Version[]> {
  const page = await calls.run('s3:ListBucketVersions', key, async () => {
    try {
      return await calls.requests.versions(null, key);
    } catch (error) {
      const isUnknown = error instanceof S3Failure && [403, 405, 501].includes(error.status);
      if (isUnknown) return { versions: [] };
      throw error;
    }
  });
  // Keys that only begin so come behind.
  return page.versions.filter((one) => one.key === key && !one.isCurrent && !one.isMark);
}
