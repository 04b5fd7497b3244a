# Sets up a machine in new namespaces (see machines.py); the machine ends when the input closes.
set -euo pipefail
hostname "$NAME"
ip link set lo up
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/sshd /run/keep /run/upper /run/work
number=0
for folder in $KEEP; do
  mkdir /run/keep/$number; mount --bind "$folder" /run/keep/$number; number=$((number + 1))
done
mkdir /run/keep/lower; mount --bind "$LOWER" /run/keep/lower
mkdir /run/keep/shared; mount --bind "$SHARED" /run/keep/shared
for folder in /tmp /var/tmp /root /home /mnt /dev/shm "$HIDE"; do
  [ -d "$folder" ] || continue
  size=; mode=755
  case $folder in */shm) size=,size=$SHM; mode=1777;; *tmp) mode=1777;; esac
  mount -t tmpfs -o mode=$mode$size machine "$folder"
done
number=0
for folder in $KEEP; do
  mkdir -p "$folder"; mount --bind /run/keep/$number "$folder"; number=$((number + 1))
done
mkdir /mnt/all; mount --bind /run/keep/shared /mnt/all
cp /etc/hosts /run
for name in passwd group; do grep -v ":100[01]:" /etc/$name > /run/$name; done
echo "nanograd:x:1000:1000::/home/nanograd:/bin/bash" >> /run/passwd
echo "other:x:1001:1001::/home/other:/bin/bash" >> /run/passwd
printf 'nanograd:x:1000:\nother:x:1001:\n' >> /run/group
for name in passwd group hosts; do mount --bind /run/$name /etc/$name; done
# Without a name server, a look-up fails at once. One out of reach delays a start of Ray by 20 s.
: > /run/resolv.conf; [ ! -e /etc/resolv.conf ] || mount --bind /run/resolv.conf /etc/resolv.conf
mkdir -p "$OVER" /home/other
chown other:other /home/other
mount -t overlay -o lowerdir=/run/keep/lower,upperdir=/run/upper,workdir=/run/work over "$OVER"
echo "export PATH=$BEFORE:\$PATH OMP_NUM_THREADS=1 RAY_USAGE_STATS_ENABLED=0 $VARIABLES" > /home/nanograd/.profile
chown nanograd:nanograd /home/nanograd /home/nanograd/.profile "$OVER"
echo ready
read -r _
