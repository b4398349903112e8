# The S3 server, with the keys of the credentials file. A bucket is a folder.
key() { sed -n "s/^$1 *= *//p" /run/secrets/s3; }
ROOT_ACCESS_KEY=$(key aws_access_key_id)
ROOT_SECRET_KEY=$(key aws_secret_access_key)
export ROOT_ACCESS_KEY ROOT_SECRET_KEY
mkdir -p /data/agama
exec versitygw --port :7070 --quiet --keep-alive posix /data
