/**
 * A schema with everything that has ever broken a MySQL backup, and changes that exercise it. Plain SQL, one statement a
 * string, so that tests can run it through any connection. Nothing here depends on the clock or on random values other
 * than by purpose (`UUID()`, `NOW(6)` inside row-based statements are fine: rows are replicated, not expressions).
 */
export const nastyDatabases = ['nasty', 'nasty_два'] as const;

const everyType = `CREATE TABLE nasty.every_type (
  id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  c_tiny TINYINT, c_tiny_u TINYINT UNSIGNED, c_bool BOOLEAN, c_small SMALLINT, c_medium MEDIUMINT UNSIGNED, c_int INT, c_big BIGINT,
  c_big_u BIGINT UNSIGNED, c_zero INT(8) ZEROFILL, c_decimal DECIMAL(65,30), c_decimal_small DECIMAL(3,0), c_float FLOAT, c_double DOUBLE,
  c_bit1 BIT(1), c_bit64 BIT(64), c_year YEAR, c_date DATE, c_time TIME, c_time6 TIME(6), c_datetime DATETIME, c_datetime3 DATETIME(3),
  c_datetime6 DATETIME(6), c_timestamp TIMESTAMP NULL, c_timestamp6 TIMESTAMP(6) NULL,
  c_char CHAR(10), c_char_max CHAR(255) CHARACTER SET utf8mb4, c_varchar VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_as_cs,
  c_latin VARCHAR(20) CHARACTER SET latin1, c_utf16 VARCHAR(20) CHARACTER SET utf16, c_binary BINARY(16), c_varbinary VARBINARY(300),
  c_tinyblob TINYBLOB, c_blob BLOB, c_mediumblob MEDIUMBLOB, c_longblob LONGBLOB, c_tinytext TINYTEXT, c_text TEXT CHARACTER SET utf8mb4,
  c_mediumtext MEDIUMTEXT, c_longtext LONGTEXT, c_enum ENUM('a','b','ç','д','') , c_set SET('x','y','z','w'), c_json JSON,
  c_geometry GEOMETRY, c_point POINT, c_line LINESTRING, c_polygon POLYGON, c_multi GEOMETRYCOLLECTION,
  c_virtual INT GENERATED ALWAYS AS (c_int + 1) VIRTUAL, c_stored VARCHAR(40) GENERATED ALWAYS AS (CONCAT('s', c_int)) STORED,
  c_invisible INT INVISIBLE DEFAULT 7, c_default VARCHAR(36) DEFAULT (UUID()),
  KEY (c_virtual), KEY (c_varchar(50)), FULLTEXT KEY (c_text)
)`;

const someBytes = "UNHEX('00FF0A0D5C27221A')";

function everyTypeRow(i: number): string {
  return `INSERT INTO nasty.every_type (c_tiny,c_tiny_u,c_bool,c_small,c_medium,c_int,c_big,c_big_u,c_zero,c_decimal,c_decimal_small,c_float,c_double,
    c_bit1,c_bit64,c_year,c_date,c_time,c_time6,c_datetime,c_datetime3,c_datetime6,c_timestamp,c_timestamp6,c_char,c_char_max,c_varchar,c_latin,c_utf16,
    c_binary,c_varbinary,c_tinyblob,c_blob,c_mediumblob,c_longblob,c_tinytext,c_text,c_mediumtext,c_longtext,c_enum,c_set,c_json,c_geometry,c_point,
    c_line,c_polygon,c_multi,c_invisible)
    VALUES (${(i % 256) - 128},${i % 256},${i % 2},-32768,16777215,${i},-9223372036854775808,18446744073709551615,${i},
    -12345678901234567890123456789012345.${String(i).padStart(30, '0')},${i % 999},1.17549e-38,-1.7976931348623157e308,b'1',0xFFFFFFFFFFFFFFFF,${1901 + (i % 250)},
    '1000-01-01','-838:59:59','838:59:58.999999','9999-12-31 23:59:59','2026-03-29 02:30:00.123','1000-01-01 00:00:00.000001','1970-01-01 00:00:01',
    '2038-01-19 03:14:07.499999','ends  ',REPEAT('ÿ',255),'Қазына 🏦 ${i} \\\\ '' " \\n','café','ünï🏦',${someBytes},${someBytes},'',${someBytes},
    REPEAT(${someBytes},1000),NULL,'t','Қазына text ${i}',REPEAT('m',70000),REPEAT('l',70000),'д','x,z',
    JSON_OBJECT('i',${i},'nested',JSON_ARRAY(1,NULL,TRUE,'🏦',JSON_OBJECT('k',1.5)),'big',18446744073709551615,'d',CAST('2026-01-02' AS DATE)),
    ST_GeomFromText('POINT(1 2)',4326),POINT(1.5,-2.25),ST_GeomFromText('LINESTRING(0 0,1 1,2 2)'),
    ST_GeomFromText('POLYGON((0 0,0 3,3 3,3 0,0 0),(1 1,1 2,2 2,2 1,1 1))'),ST_GeomFromText('GEOMETRYCOLLECTION(POINT(1 1),LINESTRING(0 0,1 1))'),${i})`;
}

export const nastySchema: readonly string[] = [
  'CREATE DATABASE nasty CHARACTER SET utf8mb4',
  'CREATE DATABASE `nasty_два` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin',
  everyType,
  'CREATE TABLE nasty.no_key (a INT, b VARCHAR(40))',
  'CREATE TABLE nasty.`odd name ``" 表` (`select` INT PRIMARY KEY, `кол` TEXT)',
  "CREATE TABLE nasty.composite (a INT, b VARCHAR(10), c DATE, v INT NOT NULL, PRIMARY KEY (b, a), UNIQUE (c, v)) ROW_FORMAT=COMPRESSED COMMENT='c'",
  `CREATE TABLE nasty.by_range (id INT NOT NULL, at DATE NOT NULL, v INT, PRIMARY KEY (id, at)) PARTITION BY RANGE (YEAR(at))
   (PARTITION p0 VALUES LESS THAN (2025), PARTITION p1 VALUES LESS THAN (2027), PARTITION pmax VALUES LESS THAN MAXVALUE)`,
  'CREATE TABLE nasty.by_hash (id INT PRIMARY KEY, v INT) PARTITION BY HASH (id) PARTITIONS 4',
  'CREATE TABLE nasty.parent (id INT PRIMARY KEY, name VARCHAR(20))',
  `CREATE TABLE nasty.child (id INT PRIMARY KEY AUTO_INCREMENT, parent_id INT, other_id INT,
   FOREIGN KEY (parent_id) REFERENCES nasty.parent (id) ON DELETE CASCADE ON UPDATE CASCADE,
   FOREIGN KEY (other_id) REFERENCES nasty.parent (id) ON DELETE SET NULL ON UPDATE CASCADE)`,
  'CREATE TABLE nasty.audit (id INT AUTO_INCREMENT PRIMARY KEY, what VARCHAR(60), at TIMESTAMP(6) DEFAULT CURRENT_TIMESTAMP(6))',
  "CREATE TRIGGER nasty.parent_ai AFTER INSERT ON nasty.parent FOR EACH ROW INSERT INTO nasty.audit (what) VALUES (CONCAT('insert ', NEW.id))",
  'CREATE TRIGGER nasty.parent_bu BEFORE UPDATE ON nasty.parent FOR EACH ROW SET NEW.name = UPPER(NEW.name)',
  'CREATE VIEW nasty.parents AS SELECT id, name FROM nasty.parent WHERE id > 0',
  `CREATE PROCEDURE nasty.fill(IN n INT) BEGIN DECLARE i INT DEFAULT 0; WHILE i < n DO
   INSERT INTO nasty.no_key VALUES (i, UUID()); SET i = i + 1; END WHILE; END`,
  'CREATE FUNCTION nasty.twice(x INT) RETURNS INT DETERMINISTIC NO SQL RETURN x * 2',
  "CREATE EVENT nasty.never ON SCHEDULE EVERY 1 YEAR STARTS '2999-01-01 00:00:00' DO DELETE FROM nasty.audit",
  'CREATE TABLE `nasty_два`.`таблица` (`ключ` INT PRIMARY KEY, `значение` VARCHAR(50))',
  "CREATE USER 'nasty_user'@'10.%' IDENTIFIED BY 'Pa''ss🏦' PASSWORD EXPIRE NEVER COMMENT 'with comment'",
  "CREATE ROLE 'nasty_role'",
  "GRANT SELECT, INSERT (a), UPDATE ON nasty.no_key TO 'nasty_user'@'10.%' WITH GRANT OPTION",
  "GRANT EXECUTE ON PROCEDURE nasty.fill TO 'nasty_role'",
  "GRANT 'nasty_role' TO 'nasty_user'@'10.%'",
];

/** Changes in rounds, so that a test can cut between them. Every round is deterministic in `round`. */
export function nastyRound(round: number): string[] {
  const base = round * 1000;
  return [
    ...[1, 2, 3].map((i) => everyTypeRow(base + i)),
    `UPDATE nasty.every_type SET c_json = JSON_SET(c_json, '$.i', ${base}, '$.nested[3]', 'changed'), c_int = c_int + 1 WHERE id % 2 = 0`,
    `DELETE FROM nasty.every_type WHERE c_int = ${base + 3}`,
    `CALL nasty.fill(5)`,
    `UPDATE nasty.no_key SET b = 'same' WHERE a IN (1, 2)`,
    `INSERT INTO nasty.\`odd name \`\`" 表\` VALUES (${base}, 'x'), (${base + 1}, NULL)`,
    `REPLACE INTO nasty.composite VALUES (${round}, 'k', '2026-01-01', ${round}), (${round}, 'l', NULL, 1)`,
    `INSERT INTO nasty.by_range VALUES (${base}, '2024-05-05', 1), (${base}, '2026-05-05', 2), (${base}, '2099-05-05', 3)`,
    `INSERT INTO nasty.by_hash VALUES (${base}, 1), (${base + 1}, 2) ON DUPLICATE KEY UPDATE v = v + 1`,
    `INSERT INTO nasty.parent VALUES (${base + 1}, 'one'), (${base + 2}, 'two'), (${base + 3}, 'three')`,
    `INSERT INTO nasty.child (parent_id, other_id) VALUES (${base + 1}, ${base + 2}), (${base + 2}, ${base + 1}), (${base + 3}, ${base + 3})`,
    `UPDATE nasty.parent SET id = ${base + 9}, name = 'moved' WHERE id = ${base + 1}`,
    `DELETE FROM nasty.parent WHERE id = ${base + 2}`,
    `INSERT INTO \`nasty_два\`.\`таблица\` VALUES (${base}, 'значение 🏦')`,
    ...savepoints(base),
    ...xa(round),
    ...ddl(round),
    `CREATE USER 'round_${round}'@'localhost' IDENTIFIED BY 'secret'`,
    `GRANT SELECT ON nasty.* TO 'round_${round}'@'localhost'`,
    ...(round > 0 ? [`DROP USER 'round_${round - 1}'@'localhost'`] : []),
  ];
}

function savepoints(base: number): string[] {
  return [
    'START TRANSACTION',
    `INSERT INTO nasty.no_key VALUES (${base}, 'kept')`,
    'SAVEPOINT a',
    `INSERT INTO nasty.no_key VALUES (${base}, 'undone')`,
    'ROLLBACK TO SAVEPOINT a',
    `INSERT INTO nasty.no_key VALUES (${base}, 'kept too')`,
    'COMMIT',
    'START TRANSACTION',
    `INSERT INTO nasty.no_key VALUES (${base}, 'never')`,
    'ROLLBACK',
  ];
}

function xa(round: number): string[] {
  const id = `'round-${round}'`;
  return [
    `XA START ${id}`,
    `INSERT INTO nasty.no_key VALUES (${round}, 'xa')`,
    `XA END ${id}`,
    `XA PREPARE ${id}`,
    `XA COMMIT ${id}`,
    `XA START ${id}`,
    `INSERT INTO nasty.no_key VALUES (${round}, 'xa undone')`,
    `XA END ${id}`,
    `XA PREPARE ${id}`,
    `XA ROLLBACK ${id}`,
    `XA START ${id}`,
    `INSERT INTO nasty.no_key VALUES (${round}, 'xa one phase')`,
    `XA END ${id}`,
    `XA COMMIT ${id} ONE PHASE`,
  ];
}

function ddl(round: number): string[] {
  const t = `nasty.ddl_${round}`;
  return [
    `CREATE TABLE ${t} (id INT PRIMARY KEY, a INT)`,
    `INSERT INTO ${t} VALUES (1, 1), (2, 2)`,
    `ALTER TABLE ${t} ADD COLUMN b VARCHAR(10) DEFAULT 'b' FIRST, ALGORITHM=INSTANT`,
    `ALTER TABLE ${t} DROP COLUMN a, ALGORITHM=INSTANT`,
    `ALTER TABLE ${t} ADD INDEX (b), CHARACTER SET latin1, ENGINE=InnoDB`,
    `RENAME TABLE ${t} TO ${t}_renamed`,
    `CREATE TABLE ${t}_as_select AS SELECT id, b FROM ${t}_renamed`,
    `CREATE TABLE ${t}_like LIKE ${t}_renamed`,
    `TRUNCATE TABLE ${t}_like`,
    `CREATE OR REPLACE VIEW nasty.v_${round} AS SELECT COUNT(*) AS n FROM ${t}_renamed`,
    'CREATE TEMPORARY TABLE nasty.temp_t (id INT PRIMARY KEY)',
    'INSERT INTO nasty.temp_t VALUES (1)',
    `INSERT INTO nasty.no_key SELECT id, 'from temp' FROM nasty.temp_t`,
    'DROP TEMPORARY TABLE nasty.temp_t',
    `ALTER TABLE nasty.by_range REORGANIZE PARTITION pmax INTO (PARTITION r${round} VALUES LESS THAN (${2100 + round}), PARTITION pmax VALUES LESS THAN MAXVALUE)`,
    'ANALYZE TABLE nasty.by_hash',
    `DROP TABLE ${t}_as_select, ${t}_like`,
    `CREATE DATABASE nasty_tmp_${round}`,
    `DROP DATABASE nasty_tmp_${round}`,
  ];
}

/** Session settings that change how rows are written to the binlog; a round is run once under each. */
export const binlogShapes: Record<string, readonly string[]> = {
  plain: [],
  compressed: ['SET SESSION binlog_transaction_compression = ON'],
  partialJson: ["SET SESSION binlog_row_value_options = 'PARTIAL_JSON'"],
  minimal: ['SET SESSION binlog_row_image = MINIMAL'],
  tagged: ["SET SESSION gtid_next = 'AUTOMATIC:nasty'"],
};

/** Put back what `binlogShapes` changed. */
export const plainShape: readonly string[] = [
  'SET SESSION binlog_transaction_compression = OFF',
  "SET SESSION binlog_row_value_options = ''",
  'SET SESSION binlog_row_image = FULL',
  "SET SESSION gtid_next = 'AUTOMATIC'",
];
