# In namespaces of its own (network, mounts, processes): addresses that answer, refuse, are silent, out
# of reach and forbidden, names for them, and a resolver that is slow. Prints what a connect to each
# name comes to. $1: the program; $2: the resolver, in Python.
set -e
program=$1 resolver=$2 folder=/mnt
mount -t tmpfs couplet $folder

ip link set lo up
for address in 192.0.2.1/32 192.0.2.2/32; do ip address add $address dev lo; done
for address in 2001:db8::1/128 2001:db8::2/128; do ip address add $address dev lo nodad; done
# Packets for these two go out, and nobody is there.
ip link add out type veth peer name void
ip link set out up
ip link set void up
ip address add 198.51.100.1/24 dev out
ip address add 2001:db8:1::1/64 dev out nodad
for address in 198.51.100.9 2001:db8:1::9; do
    ip neighbour add $address lladdr 02:00:00:00:00:09 dev out
done
ip route add unreachable 203.0.113.9
ip route add blackhole 203.0.113.8
ip -6 route add prohibit 2001:db8:2::9

cat >$folder/hosts <<'HOSTS'
2001:db8::1 both
192.0.2.1 both
2001:db8:1::9 silent
192.0.2.1 silent
2001:db8::2 refused
192.0.2.1 refused
2001:db8:2::9 forbidden
192.0.2.1 forbidden
2001:db8:1::9 last
203.0.113.9 last
203.0.113.8 last
2001:db8::1 last
2001:db8::2 nobody
192.0.2.2 nobody
203.0.113.8 nobody
HOSTS
mount --bind $folder/hosts /etc/hosts
printf 'nameserver 127.0.0.1\noptions timeout:30\n' >$folder/resolv.conf
mount --bind $folder/resolv.conf /etc/resolv.conf

printf 'six' >$folder/six
printf 'four' >$folder/four
"$program" forward 'tcp:7000:interface=[2001\:db8\:\:1]' "process:cat $folder/six" >>$folder/log 2>&1 &
"$program" forward tcp:7000:interface=192.0.2.1 "process:cat $folder/four" >>$folder/log 2>&1 &
"$program" echo --listen udp:7000 >>$folder/log 2>&1 &
python3 -c "$resolver" >>$folder/log 2>&1 &
until [ "$(grep -c listen $folder/log)" = 4 ]; do sleep 0.05; done

for name in both silent refused forbidden last nobody late; do
    status=0
    said=$("$program" connect tcp:$name:7000 2>&1 </dev/null) || status=$?
    echo "$name: $status: $said"
done
echo "datagrams: $(echo out and back | "$program" connect udp:both:7000 2>&1)"
