/** Where the hosts of a pair meet: in a Kafka topic, or without one in an archive that both of them reach. */
import { readFile, writeFile } from 'node:fs/promises';
import { setSemiSync } from '../../agent/semi-sync/settings.ts';
import type { Lab, LabOptions } from './lab.ts';
import { connected } from './running.ts';

export interface Meeting {
  name: string;
  lab: LabOptions;
  acknowledgeAfter: string;
  /** What a standby is filled from; without a topic also where they meet. */
  archive: 'onsite' | 'offsite';
}

export const topic: Meeting = { name: 'a topic', lab: { kafka: 1 }, acknowledgeAfter: 'none', archive: 'onsite' };
export const bucket: Meeting = { name: 'a bucket', lab: { s3: true }, acknowledgeAfter: 'offsite', archive: 'offsite' };
/** As on a file server. */
export const folder: Meeting = { name: 'a folder', lab: {}, acknowledgeAfter: 'none', archive: 'offsite' };

/** Writes it into the lab's configuration, and prepares its server. */
export async function meetIn(lab: Lab, { acknowledgeAfter, archive }: Meeting): Promise<void> {
  const text = (await readFile(lab.configFile, 'utf8'))
    .replace('  name: agama\n', `  name: agama\n  acknowledge_after: ${acknowledgeAfter}\n`)
    .replace(/(offsite: \{ url: "file:[^"]*")/, '$1, failure_domain: other_host');
  // The agent beside the first server has to know where a pair meets.
  await writeFile(lab.configFile, `${text}standby: { dir: ${lab.dir}/no-standby, archive: ${archive} }\n`);
  if (acknowledgeAfter === 'none') return;
  const source = await connected(lab.mysql.root);
  await setSemiSync(source, { persist: false });
  await source.close();
}
