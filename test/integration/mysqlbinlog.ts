/** What the field's own tool says of a binlog: the judge for our scanner, planner and cuts. */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

export interface PrintedTransaction {
  gtid: string;
  /** Offset of the GTID event, and of the byte after the last event of the transaction. */
  start: number;
  end: number;
  immediateCommitMicros: number;
}

/** Run `mysqlbinlog` over local binlog files and read transactions from what it prints, in order, file by file. */
export async function printedTransactions(mysqlbinlog: string, file: string): Promise<PrintedTransaction[]> {
  const child = spawn(mysqlbinlog, ['--no-defaults', '--force-if-open', '--base64-output=DECODE-ROWS', file], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const finished = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  const transactions: PrintedTransaction[] = [];
  let at = 4;
  let stamp = 0;
  let open: PrintedTransaction | null = null;
  for await (const line of createInterface({ input: child.stdout })) {
    const position = /^# at (\d+)$/.exec(line);
    const micros = /immediate_commit_timestamp=(\d+)/.exec(line);
    const gtid = /^SET @@SESSION\.GTID_NEXT= '([^']+)'/.exec(line);
    const end = /^#\d{6} +\d+:\d\d:\d\d server id \d+ +end_log_pos (\d+)/.exec(line);
    if (position) at = Number(position[1]);
    if (micros) stamp = Number(micros[1]);
    // Control events stand between transactions; the next GTID event's own line must not stretch the open one.
    if (end && open && !/\t(GTID|Rotate|Stop|Previous-GTIDs|Start)\b/.test(line)) open.end = Number(end[1]);
    if (gtid?.[1]) {
      if (gtid[1] === 'AUTOMATIC') open = null;
      else {
        open = { gtid: gtid[1].toLowerCase(), start: at, end: at, immediateCommitMicros: stamp };
        transactions.push(open);
      }
    }
  }
  const code = await finished;
  if (code !== 0) throw new Error(`mysqlbinlog ended with ${code} on ${file}`);
  return transactions;
}
