import { describe, expect, test } from '@jest/globals';
import { EntryBuilder } from '../../agent/capture/entry-builder.ts';
import { Gathering } from '../../agent/capture/gathering.ts';
import { SlabPool } from '../../agent/capture/slab-pool.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';

describe('slabs', () => {
  test('are filled anew only when every body in them was released', () => {
    const pool = new SlabPool(100, 2);
    const slab = pool.take();
    pool.hold(slab);
    pool.hold(slab);
    const bodies = [slab.subarray(0, 10), slab.subarray(10, 20)] as const;
    pool.release(bodies[0]);
    pool.release(bodies[1]);
    expect(pool.take()).not.toBe(slab);
    pool.hold(slab);
    pool.filled(slab);
    expect(pool.take()).not.toBe(slab);
    pool.release(bodies[0]);
    expect(pool.take()).toBe(slab);
  });

  test('beyond those in quick memory are accounted for each by itself', () => {
    const pool = new SlabPool(100, 1);
    const quick = pool.take();
    const other = pool.take();
    const bodies = [quick, other].map((slab) => {
      pool.hold(slab);
      pool.filled(slab);
      return slab.subarray(90, 100);
    });
    expect(other.buffer).not.toBe(quick.buffer);
    pool.release(bodies[1] ?? quick);
    expect(pool.take()).toBe(other);
    pool.release(bodies[0] ?? other);
    expect(pool.take()).toBe(quick);
  });

  test('of which nothing was cut are free at once when they are let go', () => {
    const pool = new SlabPool(100, 1);
    const slab = pool.take();
    pool.filled(slab);
    expect(pool.take()).toBe(slab);
  });

  test('go back when the stream that filled them is lost: else each connection would keep one', () => {
    const slabs = new SlabPool(256 * 1024, 1);
    const slab = slabs.take();
    const gathering = new Gathering(slab);
    const builder = new EntryBuilder({ sourceUuid: '', gtids: new GtidSet(), slabs, gathering });
    builder.append(Buffer.alloc(40), 0, 40);
    builder.cut();
    builder.append(Buffer.alloc(20), 0, 20);
    const [entry] = builder.take().items;
    slabs.release(entry?.body ?? Buffer.alloc(0));
    expect(slabs.take()).not.toBe(slab);
    builder.close();
    expect(slabs.take()).toBe(slab);
  });
});
