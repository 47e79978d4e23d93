#!/bin/sh
# show: print the page; serve: answer on port 8080
case "${1:-show}" in
show) cat /srv/www/index.html ;;
serve) exec httpd -f -p 8080 -h /srv/www ;;
*) echo "usage: serve [show|serve]" >&2; exit 2 ;;
esac
