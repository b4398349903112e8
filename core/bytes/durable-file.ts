/** Small files that are replaced whole: after a crash the old text is there or the new one, never a part. */
import { open, rename } from 'node:fs/promises';
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
  const folder = await open(dirname(path), 'r');
  await folder.sync().finally(() => folder.close());
}
