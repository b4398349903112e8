/** Faults at the system call's edge: what every file handle of this process answers for a while. */
import { open } from 'node:fs/promises';

type Call = (...args: never[]) => Promise<unknown>;

/** Has every file handle's `name` behave as `instead` says, while `work` runs. */
export async function withFault<T>(
  name: 'sync' | 'writev',
  instead: (real: () => Promise<unknown>, args: unknown[]) => Promise<unknown>,
  work: () => Promise<T>,
): Promise<T> {
  const probe = await open(process.execPath, 'r');
  const prototype = Object.getPrototypeOf(probe) as Record<string, Call>;
  await probe.close();
  const real = prototype[name];
  if (real === undefined) throw new Error(`file handles have no ${name}`);
  prototype[name] = function (this: unknown, ...args: never[]) {
    return instead(() => Reflect.apply(real, this, args), args);
  };
  try {
    return await work();
  } finally {
    prototype[name] = real;
  }
}

export const eio = () => Promise.reject(Object.assign(new Error('EIO: i/o error'), { code: 'EIO' }));
