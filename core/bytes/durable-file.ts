/** Small files that are made or replaced whole: after a crash the old text is there or the new one, never a part. */
import { open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';

/** Durable when it resolves. A `<path>.new` may be left behind by a crash; the next call takes it over. */
export async function replaceFile(path: string, text: string, mode = 0o640): Promise<void> {
  const temporary = `${path}.new`;
  const handle = await open(temporary, 'w', mode);
  try {
    await handle.writeFile(text);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(temporary, path);
  await syncFolderOf(path);
}

/** A new file, durable when it resolves. Rejects with EEXIST where there is one, and leaves nothing behind when it fails. */
export async function createFile(path: string, bytes: Uint8Array, mode: number): Promise<void> {
  const handle = await open(path, 'wx', mode);
  try {
    await handle.writeFile(bytes);
    await handle.sync();
  } catch (error) {
    await rm(path, { force: true });
    throw error;
  } finally {
    await handle.close();
  }
  await syncFolderOf(path);
}

async function syncFolderOf(path: string): Promise<void> {
  const folder = await open(dirname(path), 'r');
  await folder.sync().finally(() => folder.close());
}
