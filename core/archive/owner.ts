/**
 * Root in the folder of another account (of the service, mostly): what it makes there is given to that account, which could
 * neither read it nor go on with it otherwise. By the open file, after a look at where it is: the owner of a folder can put a
 * symlink in its place at any moment.
 */
import { type FileHandle, readlink, realpath, stat } from 'node:fs/promises';
import { pathToFileURL } from 'node:url';
import { notAnObject } from './store-error.ts';

export interface Owner {
  /** Without symlinks. */
  root: string;
  uid: number;
  gid: number;
}

/** Null when nothing needs to be given: we are not root, or the folder is root's. */
export async function ownerOf(root: string): Promise<Owner | null> {
  if (process.geteuid?.() !== 0) return null;
  const { uid, gid } = await stat(root);
  return uid === 0 ? null : { root: await realpath(root), uid, gid };
}

/** Throws QZ3401 when what is open lies elsewhere. */
export async function give(handle: FileHandle, { root, uid, gid }: Owner): Promise<void> {
  const place = await readlink(`/proc/self/fd/${handle.fd}`);
  if (!place.startsWith(`${root}/`)) throw notAnObject(pathToFileURL(root).href, `what leads to ${place}`);
  await handle.chown(uid, gid);
}
