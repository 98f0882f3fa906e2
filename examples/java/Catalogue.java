import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.zip.CRC32;

/** A server with a catalogue on its heap: java Catalogue MEGABYTES PORT. */
public class Catalogue {
    record Row(int id, String name, double price) {}

    public static void main(String[] args) throws Exception {
        int megabytes = Integer.parseInt(args[0]);
        Random random = new Random(1);
        List<Row> rows = new ArrayList<>();
        for (int i = 0; i < megabytes * 4000; i++)
            rows.add(new Row(i, "row " + i, random.nextDouble()));
        List<byte[]> images = new ArrayList<>();
        for (int i = 0; i < megabytes * 4; i++) {
            byte[] image = new byte[1 << 17];
            random.nextBytes(image);
            images.add(image);
        }
        System.gc(); // so that the objects lie where they will stay

        HttpServer server =
            HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(args[1])), 0);
        server.createContext("/", exchange -> {
            int number = Integer.parseInt(exchange.getRequestURI().getPath().substring(1));
            double sum = 0;
            for (long i = 0; i < 2000; i++)
                sum += rows.get((int) ((number * 7919L + i * 104729) % rows.size())).price();
            CRC32 crc = new CRC32();
            crc.update(images.get(number % images.size()));
            byte[] body = (sum + " " + crc.getValue()).getBytes();
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.start();
    }
}
