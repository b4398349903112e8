#!/bin/bash
# Run once by MySQL's image when its data folder is new: the account that qazyna uses, with least privileges.
mysql --user=root --password="$(cat "$MYSQL_ROOT_PASSWORD_FILE")" <<SQL
SET sql_log_bin = 0;
CREATE USER qazyna@'%' IDENTIFIED BY '$(cat "$QAZYNA_PASSWORD_FILE")';
GRANT REPLICATION SLAVE, REPLICATION CLIENT, SELECT, SHOW VIEW, TRIGGER, EVENT, PROCESS, RELOAD, BACKUP_ADMIN ON *.* TO qazyna@'%';
SQL
